#include "loader/progress_line.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>

#include "base/progress.h"

namespace bpftime::loader {
namespace {

// Control sequences of VT100 and all who came after it.
constexpr char kSaveCursor[] = "\0337", kRestoreCursor[] = "\0338";
constexpr char kNoWrap[] = "\033[?7l", kWrap[] = "\033[?7h";  // the line's end must not scroll the screen
constexpr char kEraseBehind[] = "\033[K";

bool can_show() {
  const char* terminal = std::getenv("TERM");
  return ::isatty(STDERR_FILENO) != 0 && terminal != nullptr && std::string(terminal) != "dumb";
}

void say(const std::string& text) {
  // Not more than a courtesy: what cannot be written is not.
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, text.data(), text.size());
}

std::string text_of(const Progress& progress) {
  std::string out = "bpftime: " + progress.what;
  for (char& c : out)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  if (progress.all != 0) out += ": " + std::to_string(progress.done) + " of " + std::to_string(progress.all);
  return out;
}

}  // namespace

ProgressLine::ProgressLine(std::string directory)
    : directory_(can_show() ? std::move(directory) : std::string()) {}

bool ProgressLine::update() {
  const auto progress = possible() ? read_progress(directory_) : std::nullopt;
  if (!progress) {
    clear();
    return false;
  }
  say(std::string(kSaveCursor) + kNoWrap + text_of(*progress) + kEraseBehind + kWrap + kRestoreCursor);
  shown_ = true;
  return true;
}

void ProgressLine::clear() {
  if (shown_) say(kEraseBehind);
  shown_ = false;
}

Result<wire::Message> call_with_progress(wire::Client& client, wire::MessageType type, Bytes body,
                                         std::span<const int> fds, wire::Deadline deadline,
                                         const std::string& directory) {
  ProgressLine line(directory);
  if (!line.possible()) return client.call(type, body, fds, deadline);
  auto sequence = client.send(type, body, fds, deadline);
  if (!sequence) return sequence.error();
  for (int patience = kBeforeProgressMs;; patience = kBetweenProgressMs) {
    const int left = deadline.remaining_ms();
    pollfd answered{client.descriptor(), POLLIN, 0};
    const int ready = ::poll(&answered, 1, left < 0 ? patience : std::min(patience, left));
    if (ready > 0 || left == 0 || (ready < 0 && errno != EINTR)) break;
    if (ready == 0) line.update();
  }
  line.clear();
  auto answer = client.receive(deadline);
  if (answer && (answer->type != wire::MessageType::kReply || answer->sequence != *sequence))
    return Error{EPROTO, "talk to the daemon: reply: does not belong to the request"};
  return answer;
}

}  // namespace bpftime::loader
