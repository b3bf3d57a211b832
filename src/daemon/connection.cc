#include "daemon/connection.h"

#include <sys/socket.h>

#include <algorithm>
#include <cstring>

namespace bpftime::daemon {

namespace {

constexpr size_t kReadSize = 64 * 1024;
constexpr int kReadsPerTurn = 64;
constexpr size_t kPendingFdsMax = 4 * wire::kFdsMax;

}  // namespace

bool Connection::receive(std::string* why) {
  // A bounded turn: one client cannot keep the others waiting.
  for (int turn = 0; turn < kReadsPerTurn; ++turn) {
    uint8_t piece[kReadSize];
    iovec io{piece, sizeof piece};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * (wire::kFdsMax + 3))];
    msghdr message{};
    message.msg_iov = &io;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    const ssize_t count = ::recvmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (count < 0) {
      if (errno == EAGAIN || errno == EINTR) return true;
      *why = std::strerror(errno);
      return false;
    }
    bytes_.insert(bytes_.end(), piece, piece + count);
    for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
      if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
      const size_t fd_count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
      for (size_t i = 0; i < fd_count; ++i) {
        int fd;
        std::memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof fd);
        fds_.emplace_back(fd);
      }
    }
    if (count == 0) {
      *why = "closed";
      return false;
    }
    if ((message.msg_flags & MSG_CTRUNC) || fds_.size() > kPendingFdsMax) {
      *why = "sent a message beyond the protocol's limits";
      return false;
    }
    if (!understands(why)) return false;
  }
  return true;
}

bool Connection::understands(std::string* why) const {
  std::string ignored;
  if (why == nullptr) why = &ignored;
  const auto header = read_at<wire::MessageHeader>(bytes_, 0);
  if (!header) return true;
  if (header->magic != wire::kMagic) {
    *why = "sent no bpftime message";
  } else if (header->abi_version != wire::kAbiVersion) {
    *why = "speaks version " + std::to_string(header->abi_version) + ", this daemon " +
           std::to_string(wire::kAbiVersion) + "; try `bpftime daemon restart`";
  } else if (header->length > wire::kMessageBodyMax || header->fd_count > wire::kFdsMax) {
    *why = "sent a message beyond the protocol's limits";
  } else {
    return true;
  }
  return false;
}

std::optional<wire::Message> Connection::next() {
  const auto header = read_at<wire::MessageHeader>(bytes_, 0);
  if (!header || !understands(nullptr)) return std::nullopt;
  const size_t whole = sizeof *header + header->length;
  if (bytes_.size() < whole || fds_.size() < header->fd_count) return std::nullopt;
  wire::Message message;
  message.type = header->type;
  message.sequence = header->sequence;
  message.body.assign(bytes_.begin() + sizeof *header, bytes_.begin() + whole);
  for (uint32_t i = 0; i < header->fd_count; ++i) {
    message.fds.push_back(std::move(fds_.front()));
    fds_.pop_front();
  }
  bytes_.erase(bytes_.begin(), bytes_.begin() + whole);
  return message;
}

bool Connection::send_line(uint32_t sequence, uint32_t lineage, std::string_view text, uint64_t timeout_ms) {
  const wire::TraceLine line{lineage, static_cast<uint32_t>(text.size())};
  const Bytes head = as_bytes(line);
  std::vector<uint8_t> body(head.begin(), head.end());
  body.insert(body.end(), text.begin(), text.end());
  return send(wire::MessageType::kTraceLine, sequence, body, {}, timeout_ms);
}

}  // namespace bpftime::daemon
