#include "daemon/trace_pipes.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <string>

namespace bpftime::daemon {
namespace {

bool has_reader(int writer) {
  struct pollfd state = {writer, 0, 0};  // POLLERR is always told
  return ::poll(&state, 1, 0) != 1 || (state.revents & POLLERR) == 0;
}

}  // namespace

uint64_t TracePipes::consumed() const {
  uint64_t last = settled_;
  for (const auto& [fd, pipe] : pipes_) last = std::max(last, pipe.next - 1);
  return last;
}

Result<Fd> TracePipes::open(const TraceLog& log, int* watch) {
  drop_abandoned(log);
  if (pipes_.size() >= kTracePipesMax)
    return Error{EMFILE, "trace_pipe: open: " + std::to_string(kTracePipesMax) + " readers already"};
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return Error::from_errno("trace_pipe: pipe");
  Fd reader(ends[0]), writer(ends[1]);
  // Our end only: the two are different open files. Whether the reader waits is for the reader to say.
  if (::fcntl(writer.get(), F_SETFL, O_NONBLOCK) != 0) return Error::from_errno("trace_pipe: pipe");
  *watch = writer.get();
  Pipe pipe{std::move(writer), consumed() + 1};
  fill(pipe, log);
  pipes_.emplace(*watch, std::move(pipe));
  return reader;
}

// Writes of at most PIPE_BUF bytes happen whole or not at all, so a line is never torn.
void TracePipes::fill(Pipe& pipe, const TraceLog& log) {
  const auto& entries = log.entries();
  while (pipe.next <= log.last_number()) {
    std::string chunk;
    uint64_t next = pipe.next;
    if (entries.empty() || next < entries.front().number) {
      const uint64_t first = entries.empty() ? log.last_number() + 1 : entries.front().number;
      chunk = "CPU:0 [LOST " + std::to_string(first - next) + " EVENTS]\n";
      next = first;
    }
    while (next <= log.last_number()) {
      const std::string& line = entries[next - entries.front().number].text;
      if (chunk.size() + line.size() > PIPE_BUF) break;
      chunk += line;
      ++next;
    }
    if (::write(pipe.writer.get(), chunk.data(), chunk.size()) < 0) return;  // full, or nobody reads
    pipe.next = next;
  }
}

void TracePipes::fill(const TraceLog& log) {
  for (auto& [fd, pipe] : pipes_) fill(pipe, log);
}

// The reader has gone: lines that still lie in the pipe were not read. (A line read in part was.)
void TracePipes::settle(const Pipe& pipe, const TraceLog& log) {
  int left = 0;
  if (::ioctl(pipe.writer.get(), FIONREAD, &left) != 0) left = 0;
  uint64_t next = pipe.next;
  const uint64_t first = log.entries().empty() ? next : log.entries().front().number;
  while (next > first) {
    left -= static_cast<int>(log.entries()[next - 1 - first].text.size());
    if (left < 0) break;
    --next;
  }
  settled_ = std::max(settled_, next - 1);
}

void TracePipes::drop_abandoned(const TraceLog& log) {
  for (auto at = pipes_.begin(); at != pipes_.end();) {
    if (has_reader(at->first)) {
      ++at;
    } else {
      settle(at->second, log);
      at = pipes_.erase(at);
    }
  }
}

void TracePipes::on_event(int fd, const TraceLog& log) {
  const auto found = pipes_.find(fd);
  if (found == pipes_.end()) return;
  if (has_reader(fd)) return fill(found->second, log);
  settle(found->second, log);
  pipes_.erase(found);
}

void TracePipes::clear(const TraceLog& log) {
  settled_ = log.last_number();
  for (auto& [fd, pipe] : pipes_) pipe.next = settled_ + 1;
}

}  // namespace bpftime::daemon
