// System calls as entries of extension classes: no application declares them, every process makes them.
#pragma once

#include "eim/manifest.h"
#include "eim/policy.h"

namespace bpftime::eim {

inline constexpr char kSystemCalls[] = "syscalls:";

// "syscalls:sys_enter_openat", "syscalls:sys_exit_openat": where a call begins and ends.
bool is_system_call_entry(const std::string& entry);
// Adds an entry for each that the policy's classes name, so that they are granted like a function that takes nothing and returns a
// long: the number that the kernel would have answered. Names that do not exist are left for make_grant to report.
void add_system_calls(Manifest& manifest, const Policy& policy);
// All there are, for hints.
std::vector<std::string> system_call_entries();

}  // namespace bpftime::eim
