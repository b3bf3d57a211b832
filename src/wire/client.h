// The client's side of the message protocol (see messages.h): blocking, with a deadline, for loader and CLI.
//
// Rules for whoever edits this file:
//  1. It lives in strangers' processes: no signals (MSG_NOSIGNAL), every descriptor
//     close-on-exec, nothing printed.
//  2. The peer is hostile: lengths are checked before anything is allocated, surplus descriptors are closed.
//  3. After any error the stream's position is unknown: the connection must be thrown away.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/fd.h"
#include "base/result.h"
#include "wire/messages.h"

namespace bpftime::wire {

// One received message. Owns the descriptors that came with it.
struct Message {
  MessageType type = MessageType::kReply;
  uint32_t sequence = 0;
  uint16_t version = kAbiVersion;  // the sender's
  std::vector<uint8_t> body;
  std::vector<Fd> fds;
};

// The fixed start of a reply's body, and what follows it. Borrows from the message's body.
struct ReplyView {
  int64_t result = 0;
  uint32_t blob_count = 0;
  std::string_view text;  // why it failed, next step; may be empty
  Bytes rest;             // kBpf: blob_count × (OutBlob, bytes padded to 8); kCommand: JSON
};
Result<ReplyView> parse_reply(Bytes body);

// A point on CLOCK_MONOTONIC by which a blocking call must have ended (else ETIMEDOUT).
class Deadline {
 public:
  static Deadline never() { return Deadline(); }
  static Deadline after_ms(uint64_t milliseconds);
  // Milliseconds left: -1 for never, 0 when over. Rounded up: a caller that polls this long has
  // not woken early.
  int remaining_ms() const;

 private:
  uint64_t at_ns_ = UINT64_MAX;
};

// Writes one message to a connected stream socket. EMSGSIZE when body or fds exceed the protocol's limits,
// EPIPE when the peer is gone, ETIMEDOUT at the deadline. The descriptors stay the caller's.
// `version`: the peer's, where it is not ours: headers are the same in all.
Result<void> send_message(int socket, MessageType type, uint32_t sequence, Bytes body,
                          std::span<const int> fds, Deadline deadline, uint16_t version = kAbiVersion);

// Reads one whole message. ECONNRESET at end of stream, EPROTO for anything that is not this protocol and
// version; with kAny, of any version (Message::version): only for who knows what all versions agree on.
enum class Versions { kOurs, kAny };
Result<Message> receive_message(int socket, Deadline deadline, Versions versions = Versions::kOurs);

// A connection to the daemon that has said hello. Not thread-safe; movable.
class Client {
 public:
  // ENOENT or ECONNREFUSED when no daemon listens at `path`; EPROTO when it speaks another version;
  // the daemon's own error when it refuses the hello.
  static Result<Client> connect(const std::string& path, Hello hello, Deadline deadline);
  // Speaks what the daemon there speaks. All versions agree on hello, replies and kCommand: enough to end one.
  static Result<Client> connect_any_version(const std::string& path, Hello hello, Deadline deadline);

  // Sends a request and waits for its reply (its sequence is checked).
  Result<Message> call(MessageType type, Bytes body, std::span<const int> fds, Deadline deadline);

  // For streams (kTraceSubscribe): what call() is made of.
  Result<uint32_t> send(MessageType type, Bytes body, std::span<const int> fds, Deadline deadline);
  Result<Message> receive(Deadline deadline);

  int descriptor() const { return socket_.get(); }
  uint16_t version() const { return version_; }  // kAbiVersion, but after connect_any_version
  // Moves the descriptor to `minimum` or above, where hosts that close low numbers do not hit it. Keeps it
  // if it cannot.
  void move_descriptor_above(int minimum);
  // Gives up the descriptor without closing it: for a number that no longer belongs to this connection.
  void abandon() { (void)socket_.release(); }

 private:
  Client(Fd socket, uint16_t version) : socket_(std::move(socket)), version_(version) {}
  static Result<Client> open(const std::string& path, uint16_t version);
  Result<void> greet(Hello hello, Deadline deadline, uint16_t* spoken);

  Fd socket_;
  uint16_t version_;
  uint32_t next_sequence_ = 1;
};

}  // namespace bpftime::wire
