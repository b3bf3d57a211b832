// The frame a signal handler would have, made by us: whatever a borrowed thread is made to do returns into it.
//
// A borrowed thread is sent off with its stack pointer at such a frame (where it has room for one, BorrowedThread::framed). If we are killed while it runs, the remote
// system call or function returns like a signal handler does, rt_sigreturn restores registers, floating point state and signal
// mask, and the thread goes on with its own work. The host always wins.
#pragma once

#include <sys/user.h>

#include <cstdint>
#include <vector>

namespace bpftime::target {

struct SignalFrame {
  uint64_t stack_pointer;      // for the remote code: points at the return address, as on entry of a function
  uint64_t start;              // lowest address of `bytes`; also reserves kScratchBytes below stack_pointer
  std::vector<uint8_t> bytes;  // to be written at `start`

  // Space below the frame for arguments passed by address: [scratch(), scratch() + kScratchBytes).
  uint64_t scratch() const { return start; }
};

constexpr uint64_t kScratchBytes = 1024;
constexpr uint64_t kRedZoneBytes = 128;  // System V ABI: leaf functions use it without moving rsp

// Lays a frame out below `top`. `return_to` is the address of code that calls rt_sigreturn with rsp just above the return address.
SignalFrame build_signal_frame(uint64_t top, uint64_t return_to, const user_regs_struct& registers,
                               uint64_t signal_mask, const std::vector<uint8_t>& extended_state);

// `registers` as they are once the kernel has restarted the interrupted system call they stand in, if any: what a signal frame
// must hold, because rt_sigreturn does not restart.
user_regs_struct restarted(const user_regs_struct& registers);

}  // namespace bpftime::target
