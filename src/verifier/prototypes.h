// What Linux 6.18 demands of a call to each of its helpers, and what the call gives. The whole of Linux's table, whether or not
// the runtime here has the helper: the verdict must be Linux's (kernel/bpf_programs.cc hides what the runtime lacks).
// The rows are in prototypes.def.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

namespace bpftime::verifier {

enum class ArgKind : uint8_t {
  kNone,
  kAnything,  // any initialised register
  kConstMap,
  // A map's key and value: as many bytes as the map of this call has. "Uninit": written, need not be initialised.
  kMapKey,
  kMapValue,
  kMapValueOrNull,
  kUninitMapValue,
  // Memory, with its size in the next argument.
  kMem,
  kMemOrNull,
  kUninitMem,
  kUninitMemOrNull,
  kSize,
  kSizeOrZero,
  // Memory of fixed size: written, and aligned to its size; or read.
  kIntOut,
  kLongOut,
  kIp4Header,
  kIp6Header,
  kTcpHeader,
  kContext,
  kContextOrNull,
  kConstString,    // in the value of a frozen read-only map, NUL-terminated
  kAllocSize,      // a known constant
  kRingbufRecord,  // released by the call
  kFunction,       // a subprogram, called back
  kStackOrNull,    // handed to the callback
  kSpinLock,
  kTimer,
  kDynptr,  // initialised
  kUninitLocalDynptr,
  kUninitRecordDynptr,
  kRecordDynptr,  // of a reserved record; released by the call
  // Objects of a kernel that is not here.
  kSocket,
  kSocketOnly,
  kKernelObject,
  kKernelObjectOrNull,
  kPerCpuObject,
  kKernelPointerSlot,
};

enum class ResultKind : uint8_t {
  kVoid,
  kInteger,
  kMapValue,
  kMapValueOrNull,
  kRecordOrNull,        // of the ring buffer: a reference
  kDynptrMemoryOrNull,  // a slice: lives as long as the dynptr
  kSocketOrNull,
  kKernelObject,
  kKernelObjectOrNull,
  kKernelMemory,
  kKernelMemoryOrNull,
};

struct Prototype {
  uint32_t id;            // BPF_FUNC_*
  std::string_view name;  // "bpf_map_lookup_elem"
  uint64_t types;         // bit i: programs of type i (enum bpf_prog_type) may call it
  bool gpl;               // only programs with a GPL-compatible license may
  ResultKind result;
  std::array<ArgKind, 5> arguments;
  uint8_t flags;

  static constexpr uint8_t kPacketAccess = 1;   // takes pointers into the packet
  static constexpr uint8_t kChangesPacket = 2;  // pointers into the packet are void afterwards
  static constexpr uint8_t kMightSleep = 4;     // sleepable programs only
};

std::span<const Prototype> prototypes();  // by id
// The prototype for programs of this type; null: no such helper, or not for them.
const Prototype* find_prototype(uint32_t id, uint32_t program_type);
// "bpf_map_lookup_elem"; "unknown" for ids Linux does not have.
std::string_view helper_name(uint32_t id);

// Whether Linux lets helper `id` work on maps of this type (enum bpf_map_type).
bool takes_map(uint32_t id, uint32_t map_type);

// Linux's list for "R1 type=scalar expected=fp, pkt, …".
std::string_view expected_types(ArgKind kind);

}  // namespace bpftime::verifier
