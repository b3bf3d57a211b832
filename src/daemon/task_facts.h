// What programs read of the synthetic task_struct (wire/task_facts.h): the layout is the running kernel's, the
// rest the process's.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "program/type_table.h"
#include "target/process.h"
#include "wire/target_context.h"

namespace bpftime::daemon {

// Where the members that we answer for lie. Members this kernel does not have are left out. Errors: EINVAL, no task_struct.
Result<std::vector<wire::TaskField>> task_fields(const program::TypeTable& types);
// The same of the running kernel (/sys/kernel/btf/vmlinux); read once, empty when it says nothing.
const std::vector<wire::TaskField>& kernel_task_fields();

// Of a process, from /proc; what cannot be read is left zero.
wire::TaskFacts task_facts(const target::Process& process, const std::vector<wire::TaskField>& fields);
// Start times and, as in every identity, `tgid`.
wire::TargetIdentity identity_of(const target::Process& process, uint32_t tgid);

}  // namespace bpftime::daemon
