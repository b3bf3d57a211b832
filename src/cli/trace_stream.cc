#include "cli/trace_stream.h"

#include "base/bytes.h"

namespace bpftime::cli {
namespace {

constexpr uint64_t kSubscribeMs = 60000;

}  // namespace

Result<void> subscribe_trace(wire::Client& client, uint32_t lineage, bool follow) {
  const wire::TraceSubscribe request{lineage, follow ? wire::kTraceFollow : 0};
  const auto deadline = wire::Deadline::after_ms(kSubscribeMs);
  auto answer = client.call(wire::MessageType::kTraceSubscribe, as_bytes(request), {}, deadline);
  if (!answer) return answer.error();
  auto reply = wire::parse_reply(answer->body);
  if (!reply) return reply.error();
  if (reply->result >= 0) return {};
  return Error{static_cast<int>(-reply->result),
               reply->text.empty() ? "read trace: refused by the daemon" : std::string(reply->text)};
}

Result<void> flush_trace(wire::Client& client) {
  constexpr std::string_view kRequest = R"({"command":"flush-trace"})";
  const Bytes body(reinterpret_cast<const uint8_t*>(kRequest.data()), kRequest.size());
  auto sent = client.send(wire::MessageType::kCommand, body, {}, wire::Deadline::after_ms(1000));
  if (!sent) return sent.error();
  return {};
}

Result<std::optional<TraceLine>> parse_trace_line(Bytes body) {
  ByteReader reader(body);
  const auto header = reader.read<wire::TraceLine>();
  if (!header) return Error{EPROTO, "read trace: line: shorter than its header"};
  if (header->text_length == 0) return std::optional<TraceLine>();
  const auto text = reader.read_bytes(header->text_length);
  if (!text) return Error{EPROTO, "read trace: line: text runs past the end"};
  TraceLine line{header->lineage, std::string(text->begin(), text->end())};
  while (!line.text.empty() && line.text.back() == '\n') line.text.pop_back();
  return std::optional<TraceLine>(std::move(line));
}

Result<std::optional<TraceLine>> next_trace_line(wire::Client& client, wire::Deadline deadline) {
  auto message = client.receive(deadline);
  if (!message) return message.error();
  if (message->type == wire::MessageType::kTraceLine) return parse_trace_line(message->body);
  if (message->type == wire::MessageType::kReply) return std::optional<TraceLine>();  // to flush_trace
  return Error{EPROTO, "read trace: unexpected message"};
}

std::string_view message_of(std::string_view line) {
  constexpr std::string_view kMark = ": bpf_trace_printk: ";
  const size_t at = line.find(kMark);
  return at == std::string_view::npos ? line : line.substr(at + kMark.size());
}

std::string printable(std::string_view text) {
  std::string out(text);
  for (char& c : out) {
    const auto byte = static_cast<unsigned char>(c);
    if ((byte < 0x20 && c != '\t' && c != '\n') || byte == 0x7f) c = '?';
  }
  return out;
}

}  // namespace bpftime::cli
