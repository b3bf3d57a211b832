#include "daemon/audit.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/fd.h"
#include "base/log.h"

namespace bpftime::daemon {

using nlohmann::json;

namespace {

constexpr off_t kBytesMax = 16 << 20;  // then the log becomes `.1`, and what was there goes

std::string now() {
  timespec ts;
  ::clock_gettime(CLOCK_REALTIME, &ts);
  tm parts;
  ::gmtime_r(&ts.tv_sec, &parts);
  char text[32], out[48];
  ::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &parts);
  ::snprintf(out, sizeof out, "%s.%03ldZ", text, ts.tv_nsec / 1000000);
  return out;
}

// Opened for each line: whoever rotates or removes the file need not tell us.
void append(const std::string& path, json line) {
  line["time"] = now();
  Fd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600));
  struct stat st {};
  if (fd && ::fstat(fd.get(), &st) == 0 && st.st_size > kBytesMax) {
    (void)::rename(path.c_str(), (path + ".1").c_str());
    fd = Fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600));
  }
  const std::string text = line.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
  if (!fd || ::write(fd.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
    log_warning("audit log " + path + ": not written: " + text);
}

}  // namespace

void AuditLog::load(const Load& load) {
  json line{{"event", load.program_id != 0 ? "load" : "refusal"},
            {"pid", load.pid},
            {"uid", load.uid},
            {"program", load.program},
            {"class", load.class_name.empty() ? json("observe-only") : json(load.class_name)}};
  if (!load.policy.empty()) line["policy"] = load.policy;
  if (load.program_id != 0) line["id"] = load.program_id;
  if (!load.why.empty()) line["why"] = load.why;
  append(path_, std::move(line));
}

void AuditLog::grant(int32_t pid, uint32_t uid, const OpenPolicy& policy) {
  for (size_t i = 0; i < policy.classes.size(); ++i) {
    const auto& each = *policy.classes[i];
    append(path_, {{"event", "grant"},
                   {"pid", pid},
                   {"uid", uid},
                   {"policy", policy.path},
                   {"host", policy.host},
                   {"build_id", policy.build_id.empty() ? "any" : policy.build_id},
                   {"class", each.constraints.class_name},
                   {"entry", each.entry.name},
                   {"allowed", policy.capabilities[i]}});
  }
}

void AuditLog::refusal(int32_t pid, uint32_t uid, const std::string& policy, const std::string& why) {
  append(path_, {{"event", "refusal"}, {"pid", pid}, {"uid", uid}, {"policy", policy}, {"why", why}});
}

}  // namespace bpftime::daemon
