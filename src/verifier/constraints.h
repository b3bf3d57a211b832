// What an extension class may see, call, change and spend: plain data, made by eim from manifest, host types and policy, or
// by a test by hand. The verifier knows no names, files or languages, only these; names are for messages. Default deny.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "verifier/scalar.h"

namespace bpftime::verifier {

inline constexpr uint32_t kNone = UINT32_MAX;  // "no such index"

// What one may do with a host object that was reached on one path. A pointer loaded through a member leads to another view,
// so that `read(r.a)` and `read(r.b)` may grant different things of the same type.
struct View {
  struct Member {
    std::string name;           // as the policy writes it: "headers_in.cookie"
    uint32_t offset = 0;        // bytes from the object's start
    uint32_t size = 0;          // bytes; an array member covers all its elements
    uint32_t element_size = 0;  // 0: not an array; else an access must lie within one element
    bool read = false, write = false;
    bool bit_field =
        false;  // reads whole covering bytes; is written by an atomic or, or and, of `bits` alone
    // What a load of exactly this member gives.
    enum class Gives : uint8_t { kNumber, kObject, kBuffer, kOpaque } gives = Gives::kNumber;
    Scalar number;          // kNumber: range that the host's type promises (enum, bool), else unknown
    uint32_t view = kNone;  // kObject: of the pointee; walked, may be null
    uint32_t buffer_length_member =
        kNone;  // kBuffer: index of the member of this view with the length in bytes; never written through
    uint64_t bits = 0;  // bit_field: its own ones of the `size` bytes, at most 8
  };
  std::string type;             // "ngx_http_request_t", for messages
  uint32_t size = 0;            // bytes of the whole object
  std::vector<Member> members;  // overlapping ones (a union) are all allowed that are listed
  std::string path;             // as a policy names it: "r", "r.connection"; empty: the type, for messages
};

struct Argument {
  std::string name;  // "r"
  enum class Kind : uint8_t { kNumber, kObject, kBuffer, kConstString, kOpaque } kind = Kind::kNumber;
  // kNumber: what an entry's slot promises, or what a call must prove to be a subset of.
  uint32_t bytes = 8;  // width of the C type; narrower ones arrive extended by `is_signed`
  bool is_signed = false;
  Scalar number;
  std::vector<uint64_t> values;  // calls: if not empty, the only values allowed
  uint32_t less_than = kNone;    // calls: this argument must be below that one, unsigned
  uint32_t view = kNone;         // kObject
  bool may_be_null = true;
  bool granted = true;  // kNumber of an entry: may be looked at
  // kBuffer: bytes [0, length) at the pointer; the length is another argument, or fixed.
  uint32_t length_argument = kNone;
  uint32_t length = 0;
  bool in = false, out = false;  // calls: must be initialised; is written
  uint32_t releases = kNone;     // calls: kind of handle this argument gives back (HostFunction::acquires)
};

struct HostFunction {
  std::string name;
  uint32_t id = 0;  // what the call instruction's imm holds (src_reg = BPF_PSEUDO_KFUNC_CALL)
  bool granted = false;
  std::vector<Argument> arguments;  // at most 5
  Argument result;                  // number and range, object with view; kind kNumber with bytes 0: void
  uint32_t acquires = kNone;        // kind of handle that the result is; must be released
  uint32_t cost = 1;                // in instructions
  bool may_block = false;
};

struct HostGlobal {
  std::string name;
  uint32_t id = 0;  // what the ld_imm64's imm holds (src_reg = BPF_PSEUDO_BTF_ID)
  bool granted = false;
  uint32_t view = kNone;  // rights are the view's members'
};

struct Range {
  uint64_t low = 0, high = 0;  // inclusive, as the result's type orders them
};

struct Constraints {
  std::string class_name;  // for messages
  std::vector<View> views;
  // Entry: the context is an array of 8-byte slots, one per argument, instead of the program type's context.
  bool typed_entry = false;
  std::vector<Argument> entry;
  bool may_return = false;  // may end the host function (bpf_override_return) …
  bool return_is_void = false;
  std::vector<Range> return_values;  // … with one of these
  std::vector<HostFunction> functions;
  std::vector<HostGlobal> globals;
  std::vector<uint32_t> helpers_denied;   // ids Linux allows but the class does not
  std::vector<uint32_t> helpers_granted;  // ids that need a grant: bpf_probe_write_user, bpf_override_return
  uint64_t instructions_below = 0;        // 0: `inf`
  uint64_t memory_below = 0;              // bytes; 0: no bound
};

}  // namespace bpftime::verifier
