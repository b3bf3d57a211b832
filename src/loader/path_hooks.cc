// The libc calls on paths that lead below /sys/fs/bpf: the daemon's virtual bpf file system is a directory of real files
// (kernel/pins.cc), so each call goes to libc with the path of the file there. What a tool asks the file system about itself
// (statfs) is answered as by a bpf file system. Files and directories of the virtual tracefs are real ones elsewhere, too. Rules: see real.h and hooks.cc.
#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <glob.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <exception>

#include "loader/calls.h"
#include "loader/real.h"
#include "loader/tracefs.h"
#include "loader/user_memory.h"

namespace bpftime::loader {
namespace {

constexpr long kBpfFsMagic = 0xcafe4a11;    // BPF_FS_MAGIC
constexpr long kTraceFsMagic = 0x74726163;  // TRACEFS_MAGIC

// The path to use instead of the host's, or the host's own.
class Path {
 public:
  explicit Path(const char* path) : path_(path) {
    if (inside() || path == nullptr) return;
    const Inside mark;
    try {
      if (auto real = pinned_path(path)) {
        real_ = std::move(*real);
        path_ = real_.c_str();
        ours_ = true;
      } else if (auto there = trace_path(path)) {
        real_ = std::move(*there);
        path_ = real_.c_str();
      }
    } catch (const std::exception&) {
    }
  }
  const char* get() const { return path_; }
  bool ours() const { return ours_; }

 private:
  std::string real_;
  const char* path_;
  bool ours_ = false;
};

// Where tracefs would be mounted our files of it are to be found, mounted or not.
bool is_trace_root(const char* path) {
  if (inside() || path == nullptr) return false;
  const Inside mark;
  try {
    const auto text = read_user_string(reinterpret_cast<uint64_t>(path), 64);
    return text && is_tracefs_root(*text);
  } catch (const std::exception&) {
    return false;
  }
}

int answer_statfs(int result, bool ours, const char* given, struct statfs* info) {
  if (!ours && is_trace_root(given)) {
    const long saved = result == 0 ? info->f_type : 0;
    if (saved != kTraceFsMagic) {
      *info = {};
      info->f_type = kTraceFsMagic;
      info->f_bsize = 4096;
      info->f_namelen = 255;
    }
    return 0;
  }
  if (result == 0 && ours) info->f_type = kBpfFsMagic;
  return result;
}

}  // namespace
}  // namespace bpftime::loader

using namespace bpftime::loader;  // NOLINT: hooks are at global scope

#define DECLARE(result, name, ...) \
  extern "C" __attribute__((visibility("default"))) result hook_##name(__VA_ARGS__) __asm__(#name)

// Calls libc's function of that name and type.
#define REAL(name, type, failure, ...)                        \
  ([&]() {                                                    \
    using Function = type;                                    \
    static Function* cached;                                  \
    Function* const found = real(#name, cached);              \
    return found != nullptr ? found(__VA_ARGS__) : (failure); \
  }())

// One path, whatever else.
#define PATH_HOOK(result, failure, name, signature, type, ...) \
  DECLARE(result, name, signature);                            \
  result hook_##name(signature) {                              \
    const Path path(given);                                    \
    return REAL(name, type, failure, __VA_ARGS__);             \
  }
#define COMMA ,

PATH_HOOK(int, -1, unlink, const char* given, int(const char*), path.get())
PATH_HOOK(int, -1, rmdir, const char* given, int(const char*), path.get())
PATH_HOOK(int, -1, remove, const char* given, int(const char*), path.get())
PATH_HOOK(int, -1, mkdir, const char* given COMMA mode_t mode, int(const char*, mode_t), path.get(), mode)
PATH_HOOK(int, -1, unlinkat, int directory COMMA const char* given COMMA int flags,
          int(int, const char*, int), directory, path.get(), flags)
PATH_HOOK(int, -1, mkdirat, int directory COMMA const char* given COMMA mode_t mode,
          int(int, const char*, mode_t), directory, path.get(), mode)
PATH_HOOK(DIR*, nullptr, opendir, const char* given, DIR*(const char*), path.get())
PATH_HOOK(int, -1, chmod, const char* given COMMA mode_t mode, int(const char*, mode_t), path.get(), mode)

PATH_HOOK(int, -1, stat, const char* given COMMA struct stat* info, int(const char*, struct stat*),
          path.get(), info)
PATH_HOOK(int, -1, lstat, const char* given COMMA struct stat* info, int(const char*, struct stat*),
          path.get(), info)
PATH_HOOK(int, -1, stat64, const char* given COMMA struct stat64* info, int(const char*, struct stat64*),
          path.get(), info)
PATH_HOOK(int, -1, lstat64, const char* given COMMA struct stat64* info, int(const char*, struct stat64*),
          path.get(), info)
PATH_HOOK(int, -1, fstatat, int directory COMMA const char* given COMMA struct stat* info COMMA int flags,
          int(int, const char*, struct stat*, int), directory, path.get(), info, flags)
PATH_HOOK(int, -1, fstatat64, int directory COMMA const char* given COMMA struct stat64* info COMMA int flags,
          int(int, const char*, struct stat64*, int), directory, path.get(), info, flags)
PATH_HOOK(int, -1, statx,
          int directory COMMA const char* given COMMA int flags COMMA unsigned mask COMMA struct statx* info,
          int(int, const char*, int, unsigned, struct statx*), directory, path.get(), flags, mask, info)

DECLARE(int, rename, const char* from, const char* to);
int hook_rename(const char* from, const char* to) {
  const Path source(from), target(to);
  return REAL(rename, int(const char*, const char*), -1, source.get(), target.get());
}

DECLARE(int, renameat, int from_directory, const char* from, int to_directory, const char* to);
int hook_renameat(int from_directory, const char* from, int to_directory, const char* to) {
  const Path source(from), target(to);
  return REAL(renameat, int(int, const char*, int, const char*), -1, from_directory, source.get(),
              to_directory, target.get());
}
DECLARE(int, renameat2, int from_directory, const char* from, int to_directory, const char* to,
        unsigned flags);
int hook_renameat2(int from_directory, const char* from, int to_directory, const char* to, unsigned flags) {
  const Path source(from), target(to);
  return REAL(renameat2, int(int, const char*, int, const char*, unsigned), -1, from_directory, source.get(),
              to_directory, target.get(), flags);
}

// The callback sees paths as the host gave the first: only below the root of the file system itself the walk shows ours.
DECLARE(int, nftw, const char* given, __nftw_func_t visit, int descriptors, int flags);
int hook_nftw(const char* given, __nftw_func_t visit, int descriptors, int flags) {
  const Path path(given);
  return REAL(nftw, int(const char*, __nftw_func_t, int, int), -1, path.get(), visit, descriptors, flags);
}

DECLARE(int, nftw64, const char* given, __nftw64_func_t visit, int descriptors, int flags);
int hook_nftw64(const char* given, __nftw64_func_t visit, int descriptors, int flags) {
  const Path path(given);
  return REAL(nftw64, int(const char*, __nftw64_func_t, int, int), -1, path.get(), visit, descriptors, flags);
}

// libc's glob looks at directories by functions nobody can hook: it is given those that are.
void look_through_hooks(glob_t* matches) {
  matches->gl_opendir = [](const char* name) -> void* { return ::opendir(name); };
  matches->gl_closedir = [](void* directory) { (void)::closedir(static_cast<DIR*>(directory)); };
  matches->gl_readdir = [](void* directory) { return ::readdir(static_cast<DIR*>(directory)); };
  matches->gl_stat = ::stat;
  matches->gl_lstat = ::lstat;
}

DECLARE(int, glob, const char* pattern, int flags, int (*failed)(const char*, int), glob_t* matches);
int hook_glob(const char* pattern, int flags, int (*failed)(const char*, int), glob_t* matches) {
  const bool ours = !inside() && (flags & GLOB_ALTDIRFUNC) == 0;
  if (ours) look_through_hooks(matches);
  const int result = REAL(glob, int(const char*, int, int (*)(const char*, int), glob_t*), GLOB_ABORTED,
                          pattern, ours ? flags | GLOB_ALTDIRFUNC : flags, failed, matches);
  if (ours) matches->gl_flags &= ~GLOB_ALTDIRFUNC;
  return result;
}
DECLARE(int, glob64, const char* pattern, int flags, int (*failed)(const char*, int), glob64_t* matches);
int hook_glob64(const char* pattern, int flags, int (*failed)(const char*, int), glob64_t* matches) {
  static_assert(sizeof(glob64_t) == sizeof(glob_t));  // one layout on 64-bit machines
  return hook_glob(pattern, flags, failed, reinterpret_cast<glob_t*>(matches));
}

PATH_HOOK(ssize_t, -1, getxattr, const char* given COMMA const char* name COMMA void* value COMMA size_t size,
          ssize_t(const char*, const char*, void*, size_t), path.get(), name, value, size)
PATH_HOOK(ssize_t, -1, lgetxattr,
          const char* given COMMA const char* name COMMA void* value COMMA size_t size,
          ssize_t(const char*, const char*, void*, size_t), path.get(), name, value, size)
PATH_HOOK(ssize_t, -1, listxattr, const char* given COMMA char* list COMMA size_t size,
          ssize_t(const char*, char*, size_t), path.get(), list, size)
PATH_HOOK(ssize_t, -1, llistxattr, const char* given COMMA char* list COMMA size_t size,
          ssize_t(const char*, char*, size_t), path.get(), list, size)

DECLARE(int, statfs, const char* given, struct statfs* info);
int hook_statfs(const char* given, struct statfs* info) {
  const Path path(given);
  return answer_statfs(REAL(statfs, int(const char*, struct statfs*), -1, path.get(), info), path.ours(),
                       given, info);
}
DECLARE(int, statfs64, const char* given, struct statfs* info);
int hook_statfs64(const char* given, struct statfs* info) {
  const Path path(given);
  return answer_statfs(REAL(statfs64, int(const char*, struct statfs*), -1, path.get(), info), path.ours(),
                       given, info);
}
