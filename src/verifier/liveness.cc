#include "verifier/control_flow.h"

namespace bpftime::verifier {

void analyse_liveness(const Request& request, ControlFlow& flow) {
  FrameBits all;
  all.set();
  flow.live.assign(request.program.insns.size() + 1, all);
  flow.relevant = flow.live;
}

}  // namespace bpftime::verifier
