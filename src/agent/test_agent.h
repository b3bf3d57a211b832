// For tests only: loads the agent into the test process as the daemon would find it there.
#pragma once

#include <dlfcn.h>

#include <cerrno>
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "rewrite/return_slot.h"
#include "rewrite/rewrite.h"
#include "wire/target_context.h"

namespace bpftime::agent {

inline std::string agent_path() {
  const char* directory = std::getenv("BPFTIME_BIN_DIR");
  if (directory != nullptr) return std::string(directory) + "/libbpftime-agent.so";
  char self[4096] = {};
  const std::string path = realpath("/proc/self/exe", self);
  return path.substr(0, path.rfind('/')) + "/libbpftime-agent.so";
}

class TestAgent {
 public:
  static TestAgent& get() {
    static TestAgent instance;
    return instance;
  }

  template <typename T>
  T symbol(const char* name) const {
    void* found = dlsym(handle_, name);
    if (found == nullptr) throw std::runtime_error(dlerror());
    return reinterpret_cast<T>(found);
  }

  wire::TargetContext& context() { return context_; }
  static wire::TargetContext* context_address() { return &context_; }
  // What a trampoline at that address is to use; `near`: slots of the library that lies near programs (here it lies where it may).
  rewrite::ReturnPath return_path(bool near, uint64_t trampoline) {
    const uint64_t first = near ? near_slots() : symbol<uint64_t>("bpftime_agent_return_slots");
    return {rewrite::return_slot_for(first, rewrite::kReturnSlotCopies, trampoline),
            symbol<uint64_t>("bpftime_agent_return_cold"),
            static_cast<int32_t>(*symbol<const int64_t*>("bpftime_agent_return_thread"))};
  }
  void install_guard() { symbol<long (*)(wire::TargetContext*)>("bpftime_agent_install_guard")(&context_); }
  void remove_guard() { symbol<long (*)()>("bpftime_agent_remove_guard")(); }

 private:
  TestAgent() : handle_(dlopen(agent_path().c_str(), RTLD_NOW | RTLD_LOCAL)) {
    if (handle_ == nullptr) throw std::runtime_error(dlerror());
    *symbol<wire::TargetContext**>("bpftime_agent_context") = &context_;
  }
  uint64_t near_slots() {
    static const uint64_t first = [this] {
      const std::string agent = agent_path();
      const std::string near = agent.substr(0, agent.rfind('/')) + "/libbpftime-near.so";
      void* library = dlopen(near.c_str(), RTLD_NOW | RTLD_LOCAL);
      if (library == nullptr) throw std::runtime_error(dlerror());
      const auto slots = reinterpret_cast<uint64_t>(dlsym(library, "bpftime_agent_return_slots"));
      const auto join = symbol<long (*)(uint64_t)>("bpftime_agent_join_return_slots");
      if (join(slots) != 0 || join(slots) != 0) throw std::runtime_error("the near slots were not joined");
      if (join(slots + 4096) != -EEXIST) throw std::runtime_error("others were joined, too");
      return slots;
    }();
    return first;
  }
  void* handle_;
  static inline wire::TargetContext context_{};
};

}  // namespace bpftime::agent
