// What the verifier believes at one instruction of one path.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "verifier/limits.h"
#include "verifier/scalar.h"

namespace bpftime::verifier {

struct MapConstraint;  // verifier.h

enum class Kind : uint8_t {
  kUninitialised,  // must not be read
  kScalar,
  kContext,  // of the program type, or the typed entry's argument slots
  kStack,    // frame `frame`; offset counts from the frame's top, so it is negative
  kMap,      // the map itself (ld_imm64 of a descriptor, or a value of a map of maps)
  kMapValue,
  kMapKey,  // callback argument of bpf_for_each_map_elem: read-only
  kMemory,  // `size` bytes: ring buffer record, dynptr slice, host buffer of fixed length
  kPacket,  // xdp, skb: `size` bytes are proved to lie before the end
  kPacketEnd,
  kPacketMeta,
  kFunction,      // subprogram `index`, for callbacks
  kDynptr,        // callback argument of bpf_user_ringbuf_drain: a sample as a dynptr that helpers may use, nobody end
  kKernelObject,  // pointer with a kernel type (current task): only probe_read-like access
  kHostObject,    // view `index` of the constraints
  kHostBuffer,    // at least `size` bytes, or as many as the length it is tied to (length_id)
  kHandle,        // acquired from a host function: kind `index`; may only be passed on
};

inline constexpr int32_t kLengthSlackUnknown = INT32_MIN;

// A register, or what was spilled from one. Plain data, compared field by field.
// A pointer's address is base + off + scalar, where scalar is the variable part.
struct Value {
  Kind kind = Kind::kUninitialised;
  bool may_be_null = false;
  bool read_only = false;  // kMemory, kMapValue of BPF_F_RDONLY_PROG, kMapKey
  bool walked = false;  // came out of host memory: may dangle; loads need the fault table, stores are refused
  bool alloc_record = false;  // kMemory that bpf_ringbuf_submit takes (start of a reserved record)
  bool delta32 = false;       // kScalar: the link below is of the low 32 bits, zero-extended
  uint8_t frame = 0;          // kStack
  int32_t off = 0;            // pointers: fixed offset; linked scalars: value = linked value + off
  uint32_t id =
      0;  // scalars: link to equal values; pointers that may be null: tested together; packets: same base
  uint32_t reference = 0;  // id of the open reference it stands for or was derived from; 0: none
  uint32_t index = 0;      // map, subprogram, view, handle kind
  // kMemory, kHostBuffer, kPacket: bytes known to be there. kMapValue, kMapKey: bytes of the map's value or key; `index` is that
  // of the outer map when the map came out of a map of maps.
  uint32_t size = 0;
  // kMapValue: which look-up it came from (locks, timers). kMap: not 0 when it is a value of the map of maps `index`.
  // kMemory: id of the dynptr it is a slice of. kDynptr: its identity.
  uint32_t instance = 0;
  // Names the length of one host buffer (0: none), in a namespace of its own (memory.h, length_id_of). A kScalar with it is
  // bounded by that length, a kHostBuffer is the buffer of that length; in both, `value + length_slack <= length` holds,
  // unsigned and without wrap, of the number or of the pointer's variable part. The length itself has slack 0, an index
  // below it slack 1. More slack is more knowledge: a state with less covers one with more, and a kScalar without
  // length_id covers one with it. kLengthSlackUnknown (kHostBuffer only): nothing is known of the variable part.
  uint32_t length_id = 0;
  int32_t length_slack = 0;
  Scalar scalar;  // the number, or a pointer's variable offset (constant 0 if there is none)
  // For messages only; never compared.
  uint32_t made_at = 0;  // instruction that made it
  uint32_t lost_at = 0;  // instruction that last lost precision (0: none)

  static Value of(const Scalar& number);
  static Value pointer(Kind kind);  // offset 0
  bool is_pointer() const { return kind > Kind::kScalar; }
  bool is_number() const { return kind == Kind::kScalar; }
  bool is_constant() const { return is_number() && scalar.is_const(); }
  // Constant zero, or a pointer known to be null.
  bool is_null() const { return is_constant() && scalar.value() == 0; }
};

// One of the 8-byte slots of a frame. `value` is meaningful when bytes are kSpill: all 8 of a pointer or 64-bit number, or the
// low 1, 2 or 4 of a narrow one.
enum class Byte : uint8_t {
  kUninitialised,
  kMisc,  // written with something unknown
  kZero,
  kSpill,
  kDynptr,  // of a dynptr (two slots); Slot::value.index is its kind, .reference its reference, .id its identity
  kIterator,
};

struct Slot {
  std::array<Byte, kSlotBytes> bytes{};
  Value value;
};

struct Frame {
  std::array<Value, 11> registers;  // r10: kStack of this frame
  std::vector<Slot> stack;  // slot i holds bytes [-8(i+1), -8i) from the top; only as many as were touched
  uint32_t subprogram = 0;
  uint32_t call_site = 0;  // instruction of the caller
  // Set while this frame runs a callback of the helper called at call_site.
  bool is_callback = false;
  uint32_t callback_helper = 0;  // BPF_FUNC_*
  uint32_t callback_depth =
      0;  // rounds simulated in a row of the callback that this frame (the caller) has called
  Scalar callback_result;      // what it may return
  uint32_t callback_node = 0;  // stored state of the call (state_store.h)
};

struct Reference {
  uint32_t id;
  uint32_t acquired_at;  // instruction
  uint32_t kind;         // 0: ring record or dynptr; else 1 + handle kind
  uint8_t frame;  // depth of the frame that acquired it, when in a callback (may not be released by others)
};

struct Lock {
  bool held = false;
  bool is_map = true;
  uint32_t map = 0, instance = 0;
};

struct Link;  // trail of branches, shared between states (engine.h)

struct State {
  std::vector<Frame> frames;  // innermost last; at most kFramesMax
  std::vector<Reference> references;
  Lock lock;
  uint32_t preempt_or_rcu = 0;
  // Callback rounds simulated on this path: a state met again after one more round is no infinite loop. Not compared.
  uint32_t callback_rounds = 0;

  Frame& current() { return frames.back(); }
  const Frame& current() const { return frames.back(); }
  Value& reg(uint32_t number) { return frames.back().registers[number]; }
  const Value& reg(uint32_t number) const { return frames.back().registers[number]; }

  // Calls visit(Value&) for each register and each spilled value of every frame.
  template <typename Visit>
  void for_each_value(Visit visit);

  // Kernel notation, of the innermost frame: " R0=0 R1=ctx() R10=fp0 fp-8=mmmmmmmm". `maps`: the request's, for their names.
  std::string describe(const std::vector<MapConstraint>* maps = nullptr) const;
};

template <typename Visit>
void State::for_each_value(Visit visit) {
  for (Frame& frame : frames) {
    for (Value& value : frame.registers) visit(value);
    for (Slot& slot : frame.stack)
      if (slot.bytes[0] == Byte::kSpill || slot.bytes[0] == Byte::kDynptr) visit(slot.value);
  }
}

// The kernel's name of the type: "map_value_or_null", "fp", "scalar", "ringbuf_mem".
std::string type_name(const Value& value);
// Kernel notation: "map_value_or_null(id=1,map=conf,ks=4,vs=8)". `frame`: the one it is seen from.
std::string describe(const Value& value, const std::vector<MapConstraint>* maps = nullptr,
                     uint32_t frame = 0);

}  // namespace bpftime::verifier
