#include "symbols/unwind.h"

#include <dirent.h>
#include <elfutils/libdwfl.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cinttypes>
#include <cstdio>
#include <map>
#include <string_view>

#include "symbols/symbols.h"

namespace bpftime::symbols {
namespace {

constexpr size_t kFramesMax = 4096;

// libdwfl's callback does not say which process it works for; ours always runs inside one of the methods below.
thread_local pid_t t_pid = 0;

// The file mapped at `base`, through /proc/PID/map_files: right in every root directory, but for CAP_CHECKPOINT_RESTORE only.
std::string mapped_file_path(uint64_t base) {
  const std::string directory = "/proc/" + std::to_string(t_pid) + "/map_files";
  char prefix[24];
  std::snprintf(prefix, sizeof(prefix), "%" PRIx64 "-", base);
  std::string path;
  DIR* dir = ::opendir(directory.c_str());
  if (dir == nullptr) return path;
  while (const dirent* entry = ::readdir(dir)) {
    if (std::string_view(entry->d_name).starts_with(prefix)) path = directory + "/" + entry->d_name;
  }
  ::closedir(dir);
  return path;
}

// libdwfl opens a module's file by the path in /proc/PID/maps: right only in our root directory. Look from the target's.
int find_elf(Dwfl_Module* module, void** userdata, const char* name, Dwarf_Addr base, char** file_name,
             Elf** elf) {
  if (name == nullptr || name[0] != '/')
    return dwfl_linux_proc_find_elf(module, userdata, name, base, file_name, elf);
  for (const std::string& path :
       {"/proc/" + std::to_string(t_pid) + "/root" + name, mapped_file_path(base)}) {
    if (path.empty()) continue;
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) continue;
    struct stat st;
    if (::fstat(fd, &st) == 0 && S_ISREG(st.st_mode)) {
      *file_name = ::strdup(path.c_str());
      return fd;
    }
    ::close(fd);
  }
  return -1;
}

// No separate debug files: the tables needed are in the file itself, and debuginfod would use the network.
int find_no_debuginfo(Dwfl_Module*, void**, const char*, Dwarf_Addr, const char*, const char*, GElf_Word,
                      char**) {
  return -1;
}

const Dwfl_Callbacks kCallbacks = {find_elf, find_no_debuginfo, nullptr, nullptr};

}  // namespace

struct Unwinder::State {
  Dwfl* dwfl = nullptr;
  pid_t pid = 0;
  struct Module {
    std::string path;
    std::unique_ptr<ElfFile> elf;  // null when unreadable
    uint64_t bias = 0;
    bool defines_malloc = false;
  };
  std::map<Dwfl_Module*, Module> modules;

  ~State() {
    if (dwfl != nullptr) dwfl_end(dwfl);
  }
  Module& module_of(Dwfl_Module* key);
  Frame describe(uint64_t pc, bool is_activation);
};

Unwinder::State::Module& Unwinder::State::module_of(Dwfl_Module* key) {
  auto [entry, added] = modules.try_emplace(key);
  Module& module = entry->second;
  if (!added) return module;
  const char* opened = nullptr;
  const char* name = dwfl_module_info(key, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr);
  module.path = name != nullptr ? name : "";
  GElf_Addr bias = 0;
  if (dwfl_module_getelf(key, &bias) == nullptr || module.path.empty() || module.path.front() != '/')
    return module;
  module.bias = bias;
  dwfl_module_info(key, nullptr, nullptr, nullptr, nullptr, nullptr, &opened, nullptr);
  if (opened == nullptr) return module;
  auto elf = ElfFile::open(opened);
  if (!elf) return module;
  module.elf = std::make_unique<ElfFile>(std::move(*elf));
  module.defines_malloc = module.elf->find_symbol("malloc").has_value();
  return module;
}

Frame Unwinder::State::describe(uint64_t pc, bool is_activation) {
  Frame frame{pc, "", "", is_activation, false};
  // A caller's pc is where the call returns to, which after a call that never returns is already the next function.
  const uint64_t lookup = is_activation ? pc : pc - 1;
  Dwfl_Module* key = dwfl_addrmodule(dwfl, lookup);
  if (key == nullptr) return frame;
  Module& module = module_of(key);
  frame.module = module.path;
  frame.in_allocator = module.defines_malloc;
  if (module.elf) {
    if (auto symbol = module.elf->function_at(lookup - module.bias)) frame.function = symbol->name;
  }
  return frame;
}

Result<Unwinder> Unwinder::attach(pid_t pid) {
  auto state = std::make_unique<State>();
  state->pid = pid;
  t_pid = pid;
  state->dwfl = dwfl_begin(&kCallbacks);
  const auto failed = [&](const char* what) {
    return Error{EIO, "unwind: process " + std::to_string(pid) + ": " + what + ": " + dwfl_errmsg(-1)};
  };
  if (state->dwfl == nullptr) return failed("libdwfl");
  if (dwfl_linux_proc_report(state->dwfl, pid) != 0) return failed("read its mappings");
  if (dwfl_report_end(state->dwfl, nullptr, nullptr) != 0) return failed("read its mappings");
  if (dwfl_linux_proc_attach(state->dwfl, pid, /*assume_ptrace_stopped=*/true) != 0) return failed("attach");
  return Unwinder(std::move(state));
}

Unwinder::Unwinder(std::unique_ptr<State> state) : state_(std::move(state)) {}
Unwinder::Unwinder(Unwinder&&) noexcept = default;
Unwinder& Unwinder::operator=(Unwinder&&) noexcept = default;
Unwinder::~Unwinder() = default;

Backtrace Unwinder::backtrace(pid_t tid) {
  t_pid = state_->pid;
  struct Collector {
    State* state;
    Backtrace result;
  } collector{state_.get(), {{}, false, ""}};
  const auto collect = [](Dwfl_Frame* frame, void* argument) -> int {
    auto* c = static_cast<Collector*>(argument);
    Dwarf_Addr pc = 0;
    bool is_activation = false;
    if (!dwfl_frame_pc(frame, &pc, &is_activation)) return DWARF_CB_ABORT;
    if (c->result.frames.size() >= kFramesMax) return DWARF_CB_ABORT;
    c->result.frames.push_back(c->state->describe(pc, is_activation));
    return DWARF_CB_OK;
  };
  const int outcome = dwfl_getthread_frames(state_->dwfl, tid, collect, &collector);
  // libdwfl calls an activation also what a signal handler returns to, above the frame that was interrupted.
  auto& frames = collector.result.frames;
  for (size_t i = 1; i + 1 < frames.size(); ++i)
    if (frames[i + 1].interrupted) frames[i].interrupted = false;
  collector.result.complete = outcome == 0 && !collector.result.frames.empty();
  if (!collector.result.complete) {
    const char* why = outcome == DWARF_CB_ABORT ? "too many frames" : dwfl_errmsg(-1);
    collector.result.why_incomplete = why != nullptr ? why : "unknown";
  }
  return std::move(collector.result);
}

}  // namespace bpftime::symbols
