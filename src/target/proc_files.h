// Whole small files below /proc, and errors that name a process.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "target/maps_parser.h"

namespace bpftime::target {

// Limit on one file of /proc (a process with 65,530 mappings has a maps file of about 6 MiB).
constexpr size_t kProcFileBytesMax = 64u << 20;

// "/proc/PID" + suffix.
std::string proc_path(pid_t pid, const std::string& suffix);
// The file's whole text; errno in the Error's code.
Result<std::string> read_proc_file(const std::string& path);

// The same for one that the kernel renders whole at the first read, as status and stat.
Result<std::string> read_proc_record(const std::string& path);

// State letter of a thread, or nullopt when it no longer exists.
std::optional<char> thread_state(pid_t pid, pid_t tid);
// Seccomp mode of one thread (filters are per thread).
int thread_seccomp_mode(pid_t pid, pid_t tid);
// filtered_unlike_us (process.h) of one thread.
bool thread_filtered_unlike_us(pid_t pid, pid_t tid);
// Numeric entries of a directory of /proc.
Result<std::vector<pid_t>> numeric_entries(const std::string& directory);

// "process 123: WHY" with `code`.
Error process_error(pid_t pid, int code, const std::string& why);

}  // namespace bpftime::target
