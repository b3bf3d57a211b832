// What programs call: one translation unit, compiled to an object once, at build time. Large
// functions on which the optimiser would spend a hundred milliseconds per program (a hash update) and
// win a few nanoseconds.
#include "helpers/runtime/maps_called.cc"
#include "helpers/runtime/memory.cc"
#include "helpers/runtime/probe_read.cc"
#include "helpers/runtime/process.cc"
#include "helpers/runtime/process_called.cc"
#include "helpers/runtime/stack.cc"
#include "helpers/runtime/strings.cc"
#include "helpers/runtime/task.cc"
#include "helpers/runtime/time_called.cc"
#include "helpers/runtime/trace_printk.cc"
#include "helpers/runtime/user_ring.cc"
