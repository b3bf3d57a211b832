// For tests only: loads the agent into the test process as the daemon would find it there.
#pragma once

#include <dlfcn.h>

#include <cstdlib>
#include <stdexcept>
#include <string>

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
  uint64_t return_enter() const { return symbol<uint64_t>("bpftime_agent_return_enter"); }
  void install_guard() { symbol<long (*)(wire::TargetContext*)>("bpftime_agent_install_guard")(&context_); }
  void remove_guard() { symbol<long (*)()>("bpftime_agent_remove_guard")(); }

 private:
  TestAgent() : handle_(dlopen(agent_path().c_str(), RTLD_NOW | RTLD_LOCAL)) {
    if (handle_ == nullptr) throw std::runtime_error(dlerror());
    *symbol<wire::TargetContext**>("bpftime_agent_context") = &context_;
  }
  void* handle_;
  static inline wire::TargetContext context_{};
};

}  // namespace bpftime::agent
