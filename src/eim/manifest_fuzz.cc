// Any bytes as an annotated file: records, relocations, DWARF, embedded BTF; what was understood is printed and embedded.
#include "eim/manifest.h"
#include "program/type_table.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace bpftime;
  if (auto manifest = eim::parse_manifest({data, data + size}, "fuzz")) {
    (void)eim::manifest_text(*manifest);
    (void)program::write_btf(manifest->types, {}, "host__", ".host", {}, nullptr);
  }
  // The same bytes as BTF; what can be read can be written and read again.
  if (auto btf = program::read_btf(bpftime::Bytes(data, size))) {
    auto blob = program::write_btf(btf->table, btf->names, "", ".data", {}, nullptr);
    if (blob.ok()) (void)program::read_btf(*blob);
    for (uint32_t id = 0; id < btf->table.types.size() && id < 256; ++id) (void)btf->table.spell(id);
  }
  return 0;
}
