#include "base/runtime_dir.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>

#include "base/fd.h"

namespace bpftime {
namespace {

constexpr size_t kSocketPathMax = sizeof(sockaddr_un{}.sun_path) - 1;

std::string octal(unsigned mode) {
  char text[16];
  snprintf(text, sizeof(text), "%04o", mode & 07777);
  return text;
}

Error refuse(int code, const std::string& path, const std::string& why) {
  return Error{code, "runtime directory: " + path + ": " + why};
}

// A variable's value when it is set and not empty.
const char* variable(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr && value[0] != '\0' ? value : nullptr;
}

bool is_own_directory(const std::string& path) {
  struct stat st;
  return ::lstat(path.c_str(), &st) == 0 && S_ISDIR(st.st_mode) && st.st_uid == ::geteuid();
}

// True when `path` is there already (whoever owns it: that is for the check to refuse, not for us to walk
// around) or could be made in its parent directory.
bool exists_or_can_be_made(const std::string& path) {
  struct stat st;
  if (::lstat(path.c_str(), &st) == 0) return true;
  const std::string parent = path.substr(0, path.rfind('/'));
  return ::access(parent.c_str(), W_OK | X_OK) == 0;
}

}  // namespace

Result<RuntimeDirectory> open_runtime_directory(const std::string& path_given) {
  std::string path = path_given;
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  if (path.empty() || path[0] != '/') {
    return refuse(EINVAL, path, "not an absolute path; set BPFTIME_RUNTIME_DIR to one");
  }
  RuntimeDirectory directory{path};
  if (directory.socket().size() > kSocketPathMax) {
    return refuse(ENAMETOOLONG, path,
                  "its socket's path would be longer than " + std::to_string(kSocketPathMax) +
                      " bytes; set BPFTIME_RUNTIME_DIR to a shorter one");
  }
  if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) {
    return refuse(errno, path,
                  std::string("cannot create it: ") + std::strerror(errno) +
                      "; set BPFTIME_RUNTIME_DIR to a directory of yours");
  }
  // Checked through a descriptor that did not follow a link: what is checked is what was opened.
  Fd fd(::open(path.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!fd) {
    if (errno == ELOOP || errno == ENOTDIR) {
      return refuse(errno, path, "not a directory or a symbolic link; remove it or set BPFTIME_RUNTIME_DIR");
    }
    return refuse(errno, path, std::strerror(errno));
  }
  struct stat st;
  if (::fstat(fd.get(), &st) != 0) return refuse(errno, path, std::strerror(errno));
  if (st.st_uid != ::geteuid()) {
    return refuse(EPERM, path,
                  "owned by uid " + std::to_string(st.st_uid) + ", not by you (uid " +
                      std::to_string(::geteuid()) + "); set BPFTIME_RUNTIME_DIR to a directory of yours");
  }
  if ((st.st_mode & 077) != 0) {
    return refuse(EPERM, path, "mode " + octal(st.st_mode) + " lets others in; chmod 0700 it");
  }
  return directory;
}

Result<RuntimeDirectory> find_runtime_directory() {
  if (const char* given = variable("BPFTIME_RUNTIME_DIR")) return open_runtime_directory(given);
  const char* session = variable("XDG_RUNTIME_DIR");
  if (session != nullptr && is_own_directory(session)) {
    return open_runtime_directory(std::string(session) + "/bpftime");
  }
  const uid_t uid = ::geteuid();
  const std::string name = uid == 0 ? "bpftime" : "bpftime-" + std::to_string(uid);
  if (exists_or_can_be_made("/run/" + name)) return open_runtime_directory("/run/" + name);
  return open_runtime_directory("/tmp/bpftime-" + std::to_string(uid));
}

}  // namespace bpftime
