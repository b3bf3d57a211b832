// The answer to BPF_PROG_TEST_RUN, for who has the program run: now or later (Observer::run).
#pragma once

#include <linux/bpf.h>

#include "kernel/kernel.h"

namespace bpftime::kernel {

// `attr`: the caller's; `result`: what the program returned.
BpfReply run_reply(const bpf_attr& attr, uint64_t result);

}  // namespace bpftime::kernel
