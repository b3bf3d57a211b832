// Random bytes as a function: planning neither crashes nor breaks its promises.
#include <cstdlib>

#include "rewrite/rewrite.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace bpftime;
  if (size < 2) return 0;
  rewrite::SiteRequest request;
  request.address = 0x401000;
  request.trampoline_address = 0x500000;
  request.function_size = data[0];
  request.code = Bytes(data + 2, size - 2);
  request.return_path = {0x7f0000000000, 0x7f0000001000, -64};
  if (data[1] & 1) request.on_entry = {{0x600000, {}, 1}};
  if (data[1] & 2) request.on_return = {{0x600000, {}, 0}};
  auto plan = rewrite::plan_probe(request);
  if (plan.ok()) {
    const size_t length = plan->patched.size();
    if (length < 5 || length > 24 || length != plan->original.size() || length > request.code.size()) abort();
    for (const rewrite::PcFixup& fixup : plan->fixups) {
      if (fixup.site_offset == 0 || fixup.site_offset >= length) abort();
      if (fixup.trampoline_offset >= plan->trampoline.size()) abort();
    }
    if (rewrite::plan_probe(request)->trampoline != plan->trampoline) abort();
  }
  (void)rewrite::plan_redirect(request, 0x7f0000000000);
  (void)rewrite::disassemble(request.code, request.address);
  (void)rewrite::check_general_registers_only(request.code);
  return 0;
}
