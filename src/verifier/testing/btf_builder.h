// Makes small BTF blobs: what maps with locks and programs with callbacks need to be judged. Test-only.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace bpftime::verifier::testing {

class BtfBuilder {
 public:
  struct Member {
    std::string name;
    uint32_t type;
    uint32_t offset;  // bytes
  };
  struct Parameter {
    std::string name;
    uint32_t type;
  };

  // Each returns the new type's id; ids start at 1.
  uint32_t add_int(std::string_view name, uint32_t bytes, bool is_signed);
  uint32_t add_pointer(uint32_t type);  // 0: void *
  uint32_t add_struct(std::string_view name, uint32_t bytes, const std::vector<Member>& members);
  uint32_t add_prototype(uint32_t result, const std::vector<Parameter>& parameters);
  uint32_t add_function(std::string_view name, uint32_t prototype, uint32_t linkage);  // BTF_FUNC_*

  std::vector<uint8_t> blob() const;

 private:
  uint32_t add_string(std::string_view text);
  uint32_t add_type(std::string_view name, uint32_t kind, uint32_t vlen, uint32_t size_or_type);
  void word(uint32_t value);

  std::vector<uint8_t> types_;
  std::string strings_ = std::string(1, '\0');
  uint32_t count_ = 0;
};

}  // namespace bpftime::verifier::testing
