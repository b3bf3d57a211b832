// Starts a victim and looks after it: the test's side.
#pragma once

#include <gtest/gtest.h>
#include <sys/types.h>

#include <functional>
#include <string>
#include <vector>

#include "base/memfd.h"
#include "target/victim/victim.h"

namespace bpftime::target {

class Victim {
 public:
  // Runs the victim binary with `modes` and waits until it is at work. `prepare` runs in the child before exec.
  explicit Victim(const std::vector<std::string>& modes, const std::function<void()>& prepare = {},
                  const std::string& program = {});
  Victim(const Victim&) = delete;
  Victim& operator=(const Victim&) = delete;
  ~Victim();

  pid_t pid() const { return pid_; }
  VictimProgress& progress() const { return *reinterpret_cast<VictimProgress*>(page_.data()); }
  // Waits until `count` more rounds were made; false after 20 s.
  bool works_on(uint64_t count = 1) const;
  // Tells it to end and expects that it found nothing wrong.
  void finish();

  static std::string binary();

 private:
  pid_t pid_ = -1;
  Fd memory_;
  Mapping page_;
};

// Waits up to 20 s for `condition`.
bool eventually(const std::function<bool()>& condition);

}  // namespace bpftime::target
