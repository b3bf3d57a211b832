// One thread that makes all ptrace calls for one stopped process.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

namespace bpftime::target {

// ptrace relations belong to the tracing *thread*. A thread of our own gives two things: the owner may be used from any thread,
// and when this one ends the kernel detaches every tracee it still has, also those that never reached a stop (PTRACE_DETACH
// cannot do that: it needs a stopped tracee). All signals are blocked in it.
class TracerThread {
 public:
  TracerThread() = default;
  TracerThread(const TracerThread&) = delete;
  TracerThread& operator=(const TracerThread&) = delete;
  ~TracerThread();  // waits for the thread's end; afterwards nothing is traced by it

  // Runs `work` on the thread and returns when it is done. Called from the thread itself it runs in place. The thread begins
  // with the first call: who holds nobody pays for none.
  void run(const std::function<void()>& work);

 private:
  void begin();
  void loop();

  std::mutex mutex_;
  std::condition_variable changed_;
  const std::function<void()>* work_ = nullptr;
  bool ending_ = false;
  std::thread thread_;
};

}  // namespace bpftime::target
