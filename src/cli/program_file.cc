#include "cli/program_file.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cstdlib>
#include <optional>

#include "base/fd.h"
#include "cli/elf_launch.h"
#include "cli/exit_codes.h"

namespace bpftime::cli {
namespace {

constexpr int kInterpreterDepthMax = 5;  // as the kernel's exec follows scripts
constexpr size_t kScriptLineMax = 256;   // BINPRM_BUF_SIZE: the kernel reads no further

Error cannot_run(int code, const std::string& name, const std::string& why) {
  return Error{code, "run: " + name + ": " + why};
}

// EACCES or a better reason when `path` is no file that may be executed; nullopt when it is one.
std::optional<Error> not_executable(const std::string& path) {
  struct stat st;
  if (::stat(path.c_str(), &st) != 0) return cannot_run(errno, path, std::strerror(errno));
  if (S_ISDIR(st.st_mode)) return cannot_run(EACCES, path, "is a directory");
  if (!S_ISREG(st.st_mode)) return cannot_run(EACCES, path, "not a regular file");
  if (::faccessat(AT_FDCWD, path.c_str(), X_OK, AT_EACCESS) != 0) {
    return cannot_run(EACCES, path, "not executable; try `chmod +x`");
  }
  return std::nullopt;
}

Result<std::string> find_in_path(const std::string& name) {
  if (name.empty()) return cannot_run(ENOENT, "\"\"", "no such program");
  if (name.find('/') != std::string::npos) {
    if (auto error = not_executable(name)) {
      return Error{error->code == ENOTDIR ? ENOENT : error->code, error->message};
    }
    return name;
  }
  const char* variable = std::getenv("PATH");
  const std::string path = variable != nullptr ? variable : "/usr/local/bin:/usr/bin:/bin";
  std::optional<Error> found_but;
  for (size_t begin = 0; begin <= path.size();) {
    size_t end = path.find(':', begin);
    if (end == std::string::npos) end = path.size();
    const std::string folder = path.substr(begin, end - begin);
    const std::string candidate = (folder.empty() ? "." : folder) + "/" + name;
    begin = end + 1;
    auto error = not_executable(candidate);
    if (!error) return candidate;
    // As shells do: a folder of PATH that may not be searched counts as empty.
    struct stat st;
    if (!found_but && ::stat(candidate.c_str(), &st) == 0) found_but = error;
  }
  if (found_but) return *found_but;
  return cannot_run(ENOENT, name, "not found in PATH; try its path, ./" + name);
}

// The first word after "#!", or empty when the file is no script.
std::string script_interpreter(const std::string& path) {
  Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return {};
  char start[kScriptLineMax];
  const ssize_t size = ::read(fd.get(), start, sizeof(start));
  std::string_view line(start, size > 0 ? static_cast<size_t>(size) : 0);
  if (!line.starts_with("#!")) return {};
  line = line.substr(2, line.find('\n') == std::string_view::npos ? line.npos : line.find('\n') - 2);
  const size_t begin = line.find_first_not_of(" \t");
  if (begin == std::string_view::npos) return {};
  line.remove_prefix(begin);
  return std::string(line.substr(0, line.find_first_of(" \t")));
}

// The dynamic linker ignores LD_PRELOAD in secure-execution mode.
std::string privileged(const std::string& path) {
  struct stat st;
  if (::stat(path.c_str(), &st) != 0) return {};
  if ((st.st_mode & S_ISUID) != 0) return "setuid program";
  if ((st.st_mode & S_ISGID) != 0 && (st.st_mode & S_IXGRP) != 0) return "setgid program";
  if (::getxattr(path.c_str(), "security.capability", nullptr, 0) > 0)
    return "program with file capabilities";
  return {};
}

Launch launch_of(const std::string& path) {
  const std::string privilege = privileged(path);
  if (!privilege.empty()) return {privilege + ": the dynamic linker preloads nothing of ours there", false};
  auto launch = judge_launch(path);
  return launch ? *launch : Launch{launch.error().message, false};
}

}  // namespace

Result<ProgramFile> find_program_file(const std::string& name) {
  auto path = find_in_path(name);
  if (!path) return path.error();
  ProgramFile file{*path, {}, false};
  std::string binary = *path;
  for (int depth = 0; depth < kInterpreterDepthMax; ++depth) {
    const std::string interpreter = script_interpreter(binary);
    if (interpreter.empty()) break;
    if (auto error = not_executable(interpreter)) {
      return cannot_run(EACCES, name, "its interpreter cannot be run: " + error->message);
    }
    binary = interpreter;
  }
  const Launch launch = launch_of(binary);
  file.not_entered = launch.obstacle;
  file.supervised = launch.supervised;
  if (!file.not_entered.empty() && binary != *path) file.not_entered = binary + ": " + file.not_entered;
  return file;
}

Result<std::string> preload_value(const std::string& library, const char* existing) {
  if (library.find_first_of(" :\t\n") != std::string::npos) {
    return Error{EINVAL,
                 "preload: " + library +
                     ": the dynamic linker takes no path with a space or colon; install bpftime elsewhere"};
  }
  if (::access(library.c_str(), R_OK) != 0) {
    return Error{errno, "preload: " + library + ": " + std::strerror(errno) +
                            "; it belongs beside the bpftime command, try `make install`"};
  }
  if (existing == nullptr || existing[0] == '\0') return library;
  return library + ":" + existing;
}

Result<std::string> absolute_path(const std::string& path) {
  char* found = ::realpath(path.c_str(), nullptr);
  if (found == nullptr) return Error::from_errno(path);
  std::string out = found;
  std::free(found);
  return out;
}

int exec_program(const std::string& path, const std::vector<std::string>& arguments) {
  std::vector<char*> argv;
  argv.reserve(arguments.size() + 1);
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  ::execv(path.c_str(), argv.data());
  const int code = errno;
  report(Error{code, "run: " + path + ": " + std::strerror(code)});
  return code == ENOENT ? kNotFound : kNotExecutable;
}

}  // namespace bpftime::cli
