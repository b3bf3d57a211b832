// Lines that programs print with bpf_trace_printk, as the daemon streams them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/result.h"
#include "wire/client.h"

namespace bpftime::cli {

struct TraceLine {
  uint32_t lineage = 0;
  std::string text;  // in trace_pipe's format, without its newline
};

// Asks for the lines of one lineage (0: all). `follow`: until the connection ends, else only what is
// buffered. When it returns, every line printed from now on will come.
Result<void> subscribe_trace(wire::Client& client, uint32_t lineage, bool follow);

// The next line, or nullopt at the end of the stream.
Result<std::optional<TraceLine>> next_trace_line(wire::Client& client, wire::Deadline deadline);

// To a following stream: asks for everything printed until now. next_trace_line then ends (nullopt) behind it.
Result<void> flush_trace(wire::Client& client);

// One line from a kTraceLine body; nullopt: end of stream. EPROTO when it is malformed.
Result<std::optional<TraceLine>> parse_trace_line(Bytes body);

// What the program printed, without the comm-tid, cpu and time before it.
std::string_view message_of(std::string_view line);

// `text` with control characters other than tab made harmless: a program's strings must not
// drive the terminal.
std::string printable(std::string_view text);

}  // namespace bpftime::cli
