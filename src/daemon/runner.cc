#include "daemon/runner.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "base/log.h"
#include "daemon/task_facts.h"
#include "helpers/table.h"

namespace bpftime::daemon {

namespace {

constexpr uint64_t kSecond = 1'000'000'000;
constexpr uint64_t kReachMax = kSecond / 10;

uint64_t now_ns() {
  timespec ts;
  ::clock_gettime(CLOCK_MONOTONIC, &ts);
  return static_cast<uint64_t>(ts.tv_sec) * kSecond + static_cast<uint64_t>(ts.tv_nsec);
}

Error failure(const std::string& why) { return Error{EIO, "runner: " + why}; }

}  // namespace

Runner::Runner(std::string program, uint64_t window, uint64_t run_max_ms)
    : program_(std::move(program)), window_(window), run_max_ns_(run_max_ms * 1'000'000) {}

Runner::~Runner() { stop(); }

void Runner::stop() {
  if (pid_ > 0) buried("");
  failed_.clear();
}

// Whatever it was doing ends here. `why` empty: nobody needs to know.
void Runner::buried(const std::string& why) {
  ::kill(pid_, SIGKILL);
  int status = 0;
  while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  if (!why.empty()) log_warning("runner " + std::to_string(pid_) + ": " + why);
  dead_.push_back(static_cast<uint32_t>(pid_));
  // Answers come in order: the first is what it was at.
  bool first = true;
  for (const auto& [number, pending] : pending_) {
    if (first && pending.pid != 0) dead_.push_back(pending.pid);
    if (first && pending.key && !why.empty()) failed_.insert(*pending.key);
    if (pending.verb == runner::Verb::kRun && !pending.key) ended_.push_back({number, failure(why), !first});
    first = false;
  }
  pending_.clear();
  mapped_.clear();
  socket_.reset();
  pid_ = -1;
}

std::vector<uint32_t> Runner::take_dead() { return std::exchange(dead_, {}); }

std::vector<Runner::Ended> Runner::take_ended() { return std::exchange(ended_, {}); }

std::vector<Runner::Ran> Runner::take_ran() { return std::exchange(ran_, {}); }

void Runner::expire() {
  if (pending_.empty() || now_ns() < pending_.begin()->second.deadline_ns) return;
  on_readable();
  if (!pending_.empty() && now_ns() >= pending_.begin()->second.deadline_ns)
    buried("a run took longer than it is given: ended");
}

Result<void> Runner::ensure_process() {
  if (pid_ > 0) return {};
  int pair[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
    return Error::from_errno("runner: socket");
  Fd ours(pair[0]), theirs(pair[1]);
  char window[32];
  std::snprintf(window, sizeof window, "%llx", static_cast<unsigned long long>(window_));
  char* arguments[] = {const_cast<char*>(program_.c_str()), window, nullptr};
  char* environment[] = {nullptr};
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, theirs.get(), runner::kSocketFd);
  pid_t pid = -1;
  const int error = ::posix_spawn(&pid, program_.c_str(), &actions, nullptr, arguments, environment);
  ::posix_spawn_file_actions_destroy(&actions);
  if (error != 0)
    return Error{error, "runner " + program_ + ": " + std::strerror(error) + "; try `make install` again"};
  pid_ = pid;
  socket_ = std::move(ours);
  return {};
}

Result<uint32_t> Runner::send(runner::Request& request, int fd, std::optional<uint64_t> key) {
  request.number = ++last_number_;
  iovec part{&request, sizeof request};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof fd)] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (fd >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof fd);
    std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
  }
  // Few requests are ever on their way: a full socket means that a run does not end.
  const ssize_t sent = ::sendmsg(socket_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  if (sent != static_cast<ssize_t>(sizeof request)) return failure("it takes no more requests");
  const uint32_t pid = request.verb == runner::Verb::kRun ? request.pid : 0;
  pending_[request.number] = {request.verb, key, pid, request.invocation.program_id, now_ns() + run_max_ns_};
  return request.number;
}

// One answer. False: none came in time, or the runner is gone.
bool Runner::receive(int timeout_ms) {
  pollfd ready{socket_.get(), POLLIN, 0};
  if (::poll(&ready, 1, timeout_ms) <= 0) return false;
  runner::Reply reply;
  ssize_t size = ::recv(socket_.get(), &reply, sizeof reply, MSG_DONTWAIT);
  // It died with requests unread: that is told once, before the answers it has given. Without those others would be blamed.
  if (size < 0 && errno == ECONNRESET) size = ::recv(socket_.get(), &reply, sizeof reply, MSG_DONTWAIT);
  if (size != static_cast<ssize_t>(sizeof reply)) {
    buried("it has ended: the program it ran was at fault");
    return false;
  }
  const auto found = pending_.find(reply.number);
  if (found == pending_.end()) return true;
  const Pending pending = found->second;
  pending_.erase(found);
  if (!pending_.empty()) pending_.begin()->second.deadline_ns = now_ns() + run_max_ns_;
  if (pending.verb == runner::Verb::kMap && reply.error != 0) {
    buried("it cannot map the programs' maps: " + std::string(std::strerror(reply.error)));
    return false;
  }
  if (pending.verb == runner::Verb::kRun && reply.error == 0)
    ran_.push_back({pending.program, pending.key, reply.cycles});
  if (pending.verb != runner::Verb::kRun || pending.key) return true;
  if (reply.error == ENXIO) {
    ended_.push_back({reply.number, Error{ENXIO, "the CPU is not there"}});
  } else if (reply.error != 0) {
    ended_.push_back(
        {reply.number, Error{reply.error, std::string("runner: ") + std::strerror(reply.error)}});
  } else {
    ended_.push_back({reply.number, reply.result});
  }
  return true;
}

void Runner::on_readable() {
  while (pid_ > 0 && receive(0)) {
  }
}

Result<void> Runner::map(const kernel::TargetMemory& memory) {
  const auto inode = inode_of(memory.fd);
  if (!inode) return inode.error();
  const auto known = mapped_.find(memory.address);
  if (known != mapped_.end() && known->second.inode == *inode) return {};
  if (known != mapped_.end()) retire(memory.address);
  runner::Request request{};
  request.verb = runner::Verb::kMap;
  request.address = memory.address;
  request.size = memory.size;
  request.protection = PROT_READ | (memory.writable ? PROT_WRITE : 0) | (memory.executable ? PROT_EXEC : 0);
  const auto number = send(request, memory.fd, std::nullopt);
  if (!number) return number.error();
  mapped_[memory.address] = {memory.size, *inode};
  return {};
}

Result<void> Runner::ensure_memory(const std::vector<kernel::TargetMemory>& memory) {
  if (auto there = ensure_process(); !there) return there;
  for (const auto& wanted : memory)
    if (auto done = map(wanted); !done) return done;
  return {};
}

// A program that runs just now may find it next, so it must be there.
Result<void> Runner::reach(uint64_t map_address, const std::vector<kernel::TargetMemory>& memory) {
  if (pid_ < 0 || !mapped_.contains(map_address)) return {};
  if (auto asked = ensure_memory(memory); !asked) return asked;
  const uint32_t last = last_number_;
  const uint64_t deadline = now_ns() + kReachMax;
  while (pid_ > 0 && pending_.contains(last)) {
    const uint64_t now = now_ns();
    if (now >= deadline) return Error{EAGAIN, "runner: it is at a run that takes long"};
    (void)receive(static_cast<int>((deadline - now) / 1'000'000 + 1));
  }
  return {};
}

void Runner::retire(uint64_t address) {
  const auto known = mapped_.find(address);
  if (known == mapped_.end()) return;
  runner::Request request{};
  request.verb = runner::Verb::kUnmap;
  request.address = address;
  request.size = known->second.size;
  mapped_.erase(known);
  // Without an answer: its end would be known by the next request.
  (void)send(request, -1, uint64_t{0});
}

runner::Request Runner::request_of(const kernel::ProgramRun& run) {
  runner::Request request{};
  request.verb = runner::Verb::kRun;
  request.cpu = run.cpu;
  request.entry = run.program->code_entry;
  request.invocation = {run.cookie, 0, run.program->id, 0, 0};
  if (!run.context.empty())
    std::memcpy(request.context, run.context.data(),
                std::min<size_t>(run.context.size(), runner::kContextMax));
  if (run.pid == 0) return request;
  const auto process = target::Process::open(static_cast<pid_t>(run.pid));
  const auto status = process ? process->status() : Result<target::Status>(process.error());
  if (!status) return request;  // it has ended, or is not ours to look at: the runner stands for itself
  request.pid = run.pid;
  std::strncpy(request.comm, status->name.c_str(), sizeof request.comm - 1);
  const auto& called = run.program->facts->helpers_called;
  if (std::none_of(called.begin(), called.end(), helpers::needs_task_facts)) return request;
  const wire::TargetIdentity identity = identity_of(*process, run.pid);
  request.start_time_ns = identity.start_time_ns;
  request.start_boottime_ns = identity.start_boottime_ns;
  request.facts = task_facts(*process, kernel_task_fields());
  request.has_facts = 1;
  return request;
}

Result<uint32_t> Runner::begin(const kernel::ProgramRun& run,
                               const std::vector<kernel::TargetMemory>& memory) {
  on_readable();
  expire();
  if (auto ready = ensure_memory(memory); !ready) return ready.error();
  runner::Request request = request_of(run);
  return send(request, -1, std::nullopt);
}

bool Runner::start(const kernel::ProgramRun& run, const std::vector<kernel::TargetMemory>& memory,
                   uint64_t key) {
  on_readable();
  const auto same = [&](const auto& entry) { return entry.second.key == key; };
  expire();
  if (std::any_of(pending_.begin(), pending_.end(), same)) return false;
  if (failed(key)) return false;
  if (auto ready = ensure_memory(memory); !ready) {
    log_warning(ready.error().message);
    return false;
  }
  runner::Request request = request_of(run);
  return send(request, -1, key).ok();
}

}  // namespace bpftime::daemon
