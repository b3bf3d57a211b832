// Runs an accepted program where every mistake shows: each object is memory of its own with bounds, rights and a life, each
// pointer knows its object, stack bytes that nobody wrote or promised to zero may not be read, records must be given back.
// What a helper returns is random within what it may return. Any trap is a hole in the proof. Test-only.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "verifier/state.h"
#include "verifier/testing/random.h"
#include "verifier/verifier.h"

namespace bpftime::verifier::testing {

inline constexpr uint32_t kNoRegion = UINT32_MAX;

struct Region {
  Kind kind = Kind::kMemory;  // kContext, kStack, kMap, kMapValue, kMapKey, kMemory, kPacket, kFunction
  uint32_t index = 0;         // map; depth of the frame; instruction of the function
  bool inner = false;         // kMap, kMapValue: of an inner map
  bool readable = true, writable = true;
  bool live = true;
  bool record = false;  // owned until it is given back
  uint64_t base = 0;    // address of its first byte
  uint32_t size = 0;
  std::vector<uint8_t> bytes;
  std::vector<bool> initialised;     // kStack
  std::vector<uint32_t> provenance;  // kStack: region of the pointer in each 8-byte slot, from the lowest
  uint32_t parent = kNoRegion;       // a slice: the bytes are the parent's …
  uint32_t parent_offset = 0;        // … from here
};

// A number and, if it is a pointer, the object it came from, wherever it points by now.
struct Concrete {
  uint64_t value = 0;
  uint32_t region = kNoRegion;
};

struct ConcreteFrame {
  std::array<Concrete, 11> registers;
  uint32_t stack_region = kNoRegion;
  uint32_t subprogram = 0;
  uint32_t return_to = 0;
  // Set while it runs a callback.
  bool is_callback = false;
  uint32_t helper = 0, function = 0, round = 0, rounds = 0, map = 0;
  bool inner_map = false;
  Concrete context;
};

struct RunResult {
  enum Kind : uint8_t { kFinished, kTrapped, kInconclusive } kind = kFinished;
  std::string why;  // of a trap; or what is not modelled
  uint64_t result = 0;
  bool is_address = false;  // the result is a pointer: another number on each machine
  uint64_t executed = 0;
  uint32_t insn = 0;
};

class CheckedMachine {
 public:
  // `facts`: of the accepted request. Both must outlive the machine.
  CheckedMachine(const Request& request, const Facts& facts, uint64_t seed);
  virtual ~CheckedMachine() = default;

  RunResult run(uint64_t insns_max = 1u << 17);

  // Bytes of the context, when the case has its own; before run().
  void set_context(const std::vector<uint8_t>& bytes);

  const std::vector<ConcreteFrame>& frames() const { return frames_; }
  const Region& region(uint32_t id) const { return regions_[id]; }
  size_t open_records() const;
  bool lock_held() const { return lock_held_; }
  // Byte of a stack region.
  uint8_t byte_of(uint32_t region, uint32_t at) const { return regions_[region].bytes[at]; }

 protected:
  // Before each instruction; false stops the run as trapped (set why through trap()).
  virtual bool before(uint32_t) { return true; }
  bool trap(const std::string& why);

 private:
  struct MapState {
    bool made = false;
    std::vector<uint32_t> elements;  // regions
    uint32_t handle = kNoRegion;
  };

  uint32_t add_region(Kind kind, uint32_t index, uint32_t size, bool random_bytes);
  MapState& map_state(uint32_t map, bool inner);
  const wire::MapSpec& spec_of(uint32_t map, bool inner) const;
  Concrete pointer_to(uint32_t region, int64_t offset = 0) const;
  void enter(uint32_t target, uint32_t return_to);
  bool check(const Concrete& pointer, int64_t offset, uint32_t size, bool write, uint32_t* region,
             uint32_t* at);
  bool read(const Concrete& pointer, int64_t offset, uint32_t size, uint64_t* value, uint32_t* provenance);
  bool write(const Concrete& pointer, int64_t offset, uint32_t size, const Concrete& value);
  bool read_bytes(const Concrete& pointer, uint32_t size);  // for helpers
  bool write_random(const Concrete& pointer, uint32_t size);
  bool step();
  bool step_alu(const program::Insn& insn);
  bool step_jump(const program::Insn& insn);
  bool step_memory(const program::Insn& insn);
  bool step_atomic(const program::Insn& insn, uint32_t size);
  bool step_wide(const program::Insn& insn);
  bool step_exit();
  bool step_helper(uint32_t id);
  bool generic_helper(uint32_t id);
  bool lookup();
  bool start_callback(uint32_t id);
  bool next_round(ConcreteFrame callee);
  bool read_context(uint32_t offset, uint32_t size, Concrete* out);
  bool dynptr_helper(uint32_t id);
  bool inconclusive(const std::string& why);
  void finish_call(Concrete result);
  Concrete& reg(uint32_t number) { return frames_.back().registers[number]; }
  uint32_t subprogram_at(uint32_t insn) const;

  const Request& request_;
  const Facts& facts_;
  Random random_;
  std::vector<uint32_t> starts_;
  std::vector<Region> regions_;
  std::vector<ConcreteFrame> frames_;
  std::vector<MapState> maps_, inner_maps_;
  struct Dynptr {
    uint32_t stack_region, at;  // lower slot
    uint32_t target = kNoRegion;
    uint32_t offset = 0, size = 0;
    bool record = false;
  };
  std::vector<Dynptr> dynptrs_;
  std::vector<uint8_t> context_bytes_;
  uint32_t context_ = kNoRegion, packet_ = kNoRegion;
  uint32_t pc_ = 0;
  bool lock_held_ = false;
  bool finished_ = false;
  RunResult result_;
};

}  // namespace bpftime::verifier::testing
