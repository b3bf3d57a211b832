// All helpers as one translation unit, so that the bitcode is one file and small helpers inline into each other.
#include "helpers/runtime/memory.cc"
#include "helpers/runtime/process.cc"
#include "helpers/runtime/time.cc"
#include "helpers/runtime/probe_read.cc"
#include "helpers/runtime/maps.cc"
#include "helpers/runtime/trace_printk.cc"
