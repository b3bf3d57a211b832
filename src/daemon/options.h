// What bpftimed is told on its command line; the keeper hands it on to every worker.
#pragma once

#include <cstdint>

namespace bpftime::daemon {

struct Options {
  uint64_t idle_seconds = 20;  // without clients and objects, before the daemon leaves
  uint64_t run_seconds = 10;   // a program may run in the runner (daemon/runner.h)
};

}  // namespace bpftime::daemon
