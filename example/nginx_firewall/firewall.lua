-- The firewall in Lua, as one writes it: regular expressions compiled once (PCRE's own compiler, option "j"), kept ("o").
local rules = require "rules"
local find, unescape = ngx.re.find, ngx.unescape_uri
local counters = ngx.shared.firewall
local firewall = {}

local PATH_MAX, ARGS_MAX = 512, 1024

local function refuse(name)
  counters:incr(name, 1, 0)
  return ngx.exit(ngx.HTTP_FORBIDDEN)
end

-- The name of the rule that fits; only asked when one does.
local function name_of(text)
  for _, rule in ipairs(rules.rules) do
    if find(text, rule.expression, "ijo") then return rule.name end
  end
  return "unknown"
end

function firewall.check()
  local path, args = ngx.var.uri, ngx.var.args
  if #path > PATH_MAX then return refuse("too-long") end
  if path:find("%", 1, true) then path = unescape(path) end
  if find(path, rules.path, "ijo") then return refuse(name_of(path)) end
  if args then
    if #args > ARGS_MAX then return refuse("too-long") end
    if args:find("%", 1, true) then args = unescape(args) end
    if find(args, rules.args, "ijo") then return refuse(name_of(args)) end
  end
end

function firewall.status()
  for _, name in ipairs(counters:get_keys(0)) do ngx.say(name, " ", counters:get(name)) end
end

return firewall
