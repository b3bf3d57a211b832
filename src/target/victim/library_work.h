// Work inside libc and other libraries, where a thread holds what dlopen needs: each function loops until the victim is to finish.
#pragma once

#include <map>
#include <string>

namespace bpftime::target {

// What victim.cc gives them.
struct VictimCalls {
  bool (*finishing)();
  void (*round_done)();
  void (*fail)(const char* what);
};
extern const VictimCalls kVictimCalls;

extern const std::map<std::string, void (*)()> kLibraryWork;

}  // namespace bpftime::target
