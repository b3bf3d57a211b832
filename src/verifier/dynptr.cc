#include "verifier/calls.h"

namespace bpftime::verifier {

bool check_dynptr_argument(Engine& engine, Call&, uint32_t number, ArgKind) {
  return engine.refuse_register(Rule::kDYN001, number, "dynptrs are not supported yet");
}

bool make_dynptr(Engine& engine, uint32_t number, DynptrKind, uint32_t) {
  return engine.refuse_register(Rule::kDYN001, number, "dynptrs are not supported yet");
}

void end_dynptrs_of(Engine&, uint32_t) {}

bool destroy_dynptr(Engine& engine, uint32_t, uint32_t) {
  return engine.refuse(Rule::kDYN001, "dynptrs are not supported yet");
}

}  // namespace bpftime::verifier
