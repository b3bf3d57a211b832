// One client of the daemon: its socket, who it is, and the bytes of a message not yet whole.
#pragma once

#include <sys/types.h>

#include <deque>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "base/fd.h"
#include "wire/client.h"
#include "wire/messages.h"

namespace bpftime::daemon {

struct OpenPolicy;  // policies.h

struct Peer {
  pid_t pid = 0;
  uid_t uid = 0;
};

class Connection {
 public:
  Connection(Fd socket, Peer peer) : socket_(std::move(socket)), peer_(peer) {}

  int descriptor() const { return socket_.get(); }
  const Peer& peer() const { return peer_; }

  // Reads what there is, without waiting. False: the peer is gone or broke the protocol (`why` says which).
  bool receive(std::string* why);
  // False: what comes next is no message of this protocol and version (`why`, may be null, says what). To be asked when
  // next() has no more: behind the last good message lies what will never be one.
  bool understands(std::string* why) const;
  // The next whole message, in order.
  std::optional<wire::Message> next();
  // Waits at most two seconds for a peer that does not read; false: drop it.
  bool reply(uint32_t sequence, Bytes body, std::span<const int> fds = {}) {
    return send(wire::MessageType::kReply, sequence, body, fds, 2000);
  }
  bool send(wire::MessageType type, uint32_t sequence, Bytes body, std::span<const int> fds,
            uint64_t timeout_ms) {
    return wire::send_message(socket_.get(), type, sequence, body, fds, wire::Deadline::after_ms(timeout_ms))
        .ok();
  }
  // One kTraceLine.
  bool send_line(uint32_t sequence, uint32_t lineage, std::string_view text, uint64_t timeout_ms);

  // Set by the first message.
  std::optional<wire::Hello> hello;
  // What its programs may do beyond observing; null: nothing.
  std::shared_ptr<OpenPolicy> policy;
  std::string policy_class;  // chosen for programs to come; empty: the policy says
  // Probes are not touched while such a connection lives, or until it says so: a policy is being exchanged for another.
  bool holds_probes = false;
  // A trace subscriber.
  std::optional<wire::TraceSubscribe> trace;

 private:
  Fd socket_;
  Peer peer_;
  std::vector<uint8_t> bytes_;
  std::deque<Fd> fds_;
};

}  // namespace bpftime::daemon
