// Shared by both halves of `probes`.
#pragma once

#define COUNT_SLOTS 16         // a power of two
#define HASH_KEYS 1024         // a power of two
#define RING_BYTES (4u << 20)  // holds more records than are made between two pauses
#define OPERATIONS 8           // per call, where single ones are measured
#define ROTATED 64             // functions that the victim calls in turn
