// Values with the names and types that their BTF gives them, in the form of `bpftool map dump`.
#pragma once

#include <memory>
#include <string>

#include "base/bytes.h"
#include "base/result.h"
#include "cli/bpf_door.h"

struct btf;

namespace bpftime::cli {

class BtfTypes {
 public:
  // Of the object with this id, as the daemon has it.
  static Result<BtfTypes> fetch(uint32_t btf_id);

  // The bytes as a value of the type; null where they are too few or the type is none that holds data.
  OrderedJson value(uint32_t type_id, Bytes bytes) const;
  // "int on_call(struct pt_regs * ctx)" of a BTF_KIND_FUNC; empty: not one.
  std::string prototype(uint32_t function_id) const;
  // A string of the string section; empty: none there.
  std::string text(uint32_t offset) const;

 private:
  struct Free {
    void operator()(btf* types) const;
  };
  std::unique_ptr<btf, Free> types_;

  OrderedJson value_at(uint32_t type_id, Bytes bytes, int depth) const;
  OrderedJson bit_field(uint32_t type_id, Bytes bytes, uint32_t bit, uint32_t bits) const;
  OrderedJson members(uint32_t type_id, Bytes bytes, int depth) const;
  OrderedJson elements(uint32_t type_id, Bytes bytes, int depth) const;
  std::string type_text(uint32_t type_id, int depth) const;
};

}  // namespace bpftime::cli
