#include "wire/client.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>

namespace bpftime::wire {
namespace {

uint64_t monotonic_ns() {
  struct timespec now;
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1000000000u + static_cast<uint64_t>(now.tv_nsec);
}

// Waits until the socket is ready for `events`. A hang-up counts as ready: the next read or write tells.
Result<void> wait_ready(int socket, short events, Deadline deadline) {
  for (;;) {
    const int timeout = deadline.remaining_ms();
    struct pollfd entry = {socket, events, 0};
    const int ready = ::poll(&entry, 1, timeout);
    if (ready > 0) return {};
    if (ready == 0) return Error{ETIMEDOUT, "talk to the daemon: socket: no answer before the deadline"};
    if (errno != EINTR && errno != EAGAIN) return Error::from_errno("talk to the daemon: poll");
  }
}

// Sends as much of [data, data + size) as the socket takes; `fds` ride on the first byte.
Result<size_t> send_some(int socket, const uint8_t* data, size_t size, std::span<const int> fds,
                         Deadline deadline) {
  alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int) * kFdsMax)];
  struct iovec part = {const_cast<uint8_t*>(data), size};
  struct msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (!fds.empty()) {
    std::memset(control, 0, sizeof(control));
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(fds.size_bytes());
    struct cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(fds.size_bytes());
    std::memcpy(CMSG_DATA(header), fds.data(), fds.size_bytes());
  }
  for (;;) {
    const ssize_t sent = ::sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent > 0) return static_cast<size_t>(sent);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0 && errno != EAGAIN) return Error::from_errno("send to the daemon");
    if (auto ready = wait_ready(socket, POLLOUT, deadline); !ready) return ready.error();
  }
}

Result<void> send_all(int socket, const uint8_t* data, size_t size, std::span<const int> fds,
                      Deadline deadline) {
  while (size > 0) {
    auto sent = send_some(socket, data, size, fds, deadline);
    if (!sent) return sent.error();
    data += *sent;
    size -= *sent;
    fds = {};
  }
  return {};
}

void collect_fds(struct msghdr& message, std::vector<Fd>& fds) {
  for (struct cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof(fd));
      fds.emplace_back(fd);
    }
  }
}

// Reads exactly `size` bytes; descriptors that arrive are appended to `fds`, at most kFdsMax in all.
Result<void> receive_all(int socket, uint8_t* data, size_t size, std::vector<Fd>& fds, Deadline deadline) {
  alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int) * kFdsMax)];
  while (size > 0) {
    struct iovec part = {data, size};
    struct msghdr message = {};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    const ssize_t received = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (received == 0) return Error{ECONNRESET, "read from the daemon: connection: closed by the daemon"};
    if (received < 0) {
      if (errno == EINTR) continue;
      if (errno != EAGAIN) return Error::from_errno("read from the daemon");
      if (auto ready = wait_ready(socket, POLLIN, deadline); !ready) return ready.error();
      continue;
    }
    collect_fds(message, fds);
    // A truncated control message means descriptors were lost: out of descriptors here, or a peer that
    // sends too many.
    if ((message.msg_flags & MSG_CTRUNC) != 0)
      return Error{EMFILE,
                   "read from the daemon: descriptors: could not take them all; try a higher `ulimit -n`"};
    if (fds.size() > kFdsMax)
      return Error{EPROTO, "read from the daemon: descriptors: more than the protocol allows"};
    data += received;
    size -= static_cast<size_t>(received);
  }
  return {};
}

// What a header of ours with another version says.
Error version_error(uint16_t version) {
  return Error{EPROTO, "talk to the daemon: protocol: it speaks version " + std::to_string(version) +
                           ", this bpftime " + std::to_string(kAbiVersion) +
                           "; try `bpftime daemon restart`, then start the tools anew"};
}

Error misplaced_reply() { return Error{EPROTO, "talk to the daemon: reply: does not belong to the request"}; }

}  // namespace

Deadline Deadline::after_ms(uint64_t milliseconds) {
  Deadline out;
  out.at_ns_ = monotonic_ns() + milliseconds * 1000000u;
  return out;
}

int Deadline::remaining_ms() const {
  if (at_ns_ == UINT64_MAX) return -1;
  const uint64_t now = monotonic_ns();
  if (now >= at_ns_) return 0;
  return static_cast<int>(std::min<uint64_t>((at_ns_ - now + 999999) / 1000000, INT32_MAX));
}

Result<ReplyView> parse_reply(Bytes body) {
  ByteReader reader(body);
  const auto reply = reader.read<Reply>();
  if (!reply) return Error{EPROTO, "read from the daemon: reply: shorter than its header"};
  const auto text = reader.read_bytes(reply->text_length);
  if (!text) return Error{EPROTO, "read from the daemon: reply: text runs past the end"};
  ReplyView view;
  view.result = reply->result;
  view.blob_count = reply->blob_count;
  view.text = std::string_view(reinterpret_cast<const char*>(text->data()), text->size());
  view.rest = body.subspan(reader.offset());
  return view;
}

Result<void> send_message(int socket, MessageType type, uint32_t sequence, Bytes body,
                          std::span<const int> fds, Deadline deadline, uint16_t version) {
  if (body.size() > kMessageBodyMax || fds.size() > kFdsMax)
    return Error{EMSGSIZE, "send to the daemon: message: larger than the protocol allows"};
  const MessageHeader header = {kMagic,
                                version,
                                kArchX86_64,
                                type,
                                static_cast<uint32_t>(body.size()),
                                static_cast<uint32_t>(fds.size()),
                                sequence};
  const Bytes bytes = as_bytes(header);
  // In one piece, as most are: the receiver is woken once, and finds all of it.
  constexpr size_t kTogetherMax = 4096;
  if (const size_t size = bytes.size() + body.size(); size <= kTogetherMax) {
    uint8_t both[kTogetherMax];
    std::memcpy(both, bytes.data(), bytes.size());
    if (!body.empty()) std::memcpy(both + bytes.size(), body.data(), body.size());
    return send_all(socket, both, size, fds, deadline);
  }
  if (auto sent = send_all(socket, bytes.data(), bytes.size(), fds, deadline); !sent) return sent;
  return send_all(socket, body.data(), body.size(), {}, deadline);
}

Result<Message> receive_message(int socket, Deadline deadline, Versions versions) {
  Message message;
  MessageHeader header;
  auto got = receive_all(socket, reinterpret_cast<uint8_t*>(&header), sizeof(header), message.fds, deadline);
  if (!got) return got.error();
  if (header.magic != kMagic || header.arch != kArchX86_64)
    return Error{EPROTO, "talk to the daemon: protocol: no message of bpftime"};
  if (header.abi_version != kAbiVersion && versions == Versions::kOurs)
    return version_error(header.abi_version);
  if (header.length > kMessageBodyMax || header.fd_count > kFdsMax)
    return Error{EPROTO, "read from the daemon: message: larger than the protocol allows"};
  message.type = header.type;
  message.sequence = header.sequence;
  message.version = header.abi_version;
  // Grows with what has really arrived: a header alone must not make this process allocate 64 MiB.
  constexpr size_t kStep = size_t{1} << 20;
  for (size_t have = 0; have < header.length;) {
    const size_t step = std::min<size_t>(kStep, header.length - have);
    message.body.resize(have + step);
    got = receive_all(socket, message.body.data() + have, step, message.fds, deadline);
    if (!got) return got.error();
    have += step;
  }
  if (message.fds.size() != header.fd_count)
    return Error{EPROTO, "read from the daemon: descriptors: not as many as announced"};
  return message;
}

Result<Client> Client::open(const std::string& path, uint16_t version) {
  struct sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path))
    return Error{ENAMETOOLONG, "connect to the daemon: " + path + ": not a usable socket path"};
  std::memcpy(address.sun_path, path.data(), path.size());
  Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket) return Error::from_errno("connect to the daemon: socket");
  int status;
  do {
    status = ::connect(socket.get(), reinterpret_cast<struct sockaddr*>(&address), sizeof(address));
  } while (status != 0 && errno == EINTR);
  if (status != 0 && errno != EISCONN)
    return Error{errno, "connect to the daemon: " + path + ": " + std::strerror(errno) +
                            "; try `bpftime daemon start`"};
  return Client(std::move(socket), version);
}

// `spoken`: what the daemon answered in, whatever the answer was.
Result<void> Client::greet(Hello hello, Deadline deadline, uint16_t* spoken) {
  auto sequence = send(MessageType::kHello, as_bytes(hello), {}, deadline);
  if (!sequence) return sequence.error();
  auto answer = receive_message(socket_.get(), deadline, Versions::kAny);
  if (!answer) return answer.error();
  *spoken = answer->version;
  if (*spoken != version_) return version_error(*spoken);
  if (answer->type != MessageType::kReply || answer->sequence != *sequence) return misplaced_reply();
  auto reply = parse_reply(answer->body);
  if (!reply) return reply.error();
  if (reply->result < 0)
    return Error{static_cast<int>(-reply->result),
                 reply->text.empty() ? "connect to the daemon: hello: refused" : std::string(reply->text)};
  return {};
}

Result<Client> Client::connect(const std::string& path, Hello hello, Deadline deadline) {
  auto client = open(path, kAbiVersion);
  if (!client) return client;
  uint16_t spoken = 0;
  if (auto greeted = client->greet(hello, deadline, &spoken); !greeted) return greeted.error();
  return client;
}

Result<Client> Client::connect_any_version(const std::string& path, Hello hello, Deadline deadline) {
  auto client = open(path, kAbiVersion);
  if (!client) return client;
  uint16_t spoken = kAbiVersion;
  auto greeted = client->greet(hello, deadline, &spoken);
  if (!greeted && spoken != kAbiVersion) {  // it tells which when it refuses ours
    client = open(path, spoken);
    if (!client) return client;
    greeted = client->greet(hello, deadline, &spoken);
  }
  if (!greeted) return greeted.error();
  return client;
}

Result<uint32_t> Client::send(MessageType type, Bytes body, std::span<const int> fds, Deadline deadline) {
  const uint32_t sequence = next_sequence_++;
  auto sent = send_message(socket_.get(), type, sequence, body, fds, deadline, version_);
  if (!sent) return sent.error();
  return sequence;
}

Result<Message> Client::receive(Deadline deadline) {
  auto message = receive_message(socket_.get(), deadline, Versions::kAny);
  if (message && message->version != version_) return version_error(message->version);
  return message;
}

Result<Message> Client::call(MessageType type, Bytes body, std::span<const int> fds, Deadline deadline) {
  auto sequence = send(type, body, fds, deadline);
  if (!sequence) return sequence.error();
  auto answer = receive(deadline);
  if (!answer) return answer;
  if (answer->type != MessageType::kReply || answer->sequence != *sequence) return misplaced_reply();
  return answer;
}

void Client::move_descriptor_above(int minimum) {
  const int moved = ::fcntl(socket_.get(), F_DUPFD_CLOEXEC, minimum);
  if (moved >= 0) socket_ = Fd(moved);
}

}  // namespace bpftime::wire
