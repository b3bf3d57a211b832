-- The endless loop as the script it was: counts what is no wildcard, and forgets to go on at a '*'.
local text = ngx.var.args or ""
local i, count = 1, 0
while i <= #text do
  if text:sub(i, i) ~= "*" then
    count = count + 1
    i = i + 1
  end
end
ngx.say("survived")
