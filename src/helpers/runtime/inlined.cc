// What programs inline: one translation unit, compiled to LLVM bitcode and optimised together with each
// program. Small helpers, and those that fold to a few instructions once the map is a constant.
#include "helpers/runtime/counters.cc"
#include "helpers/runtime/for_each.cc"
#include "helpers/runtime/host.cc"
#include "helpers/runtime/maps.cc"
#include "helpers/runtime/maps_dynptr.cc"
#include "helpers/runtime/probe_read.cc"
#include "helpers/runtime/process.cc"
#include "helpers/runtime/stack_entry.cc"
#include "helpers/runtime/time.cc"
