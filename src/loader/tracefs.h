// The part of tracefs that describes our tracepoints, for tools that cannot read the kernel's own: not mounted,
// or not root. Where the kernel's can be read it is, so that ids are the kernel's.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace bpftime::loader {

// Contents of a virtual file, if `path` (absolute) names one and the kernel does not serve it.
std::optional<std::string> tracefs_file(std::string_view path);
// Names in a virtual directory, likewise.
std::optional<std::vector<std::string>> tracefs_directory(std::string_view path);
// A real file or directory with the same in it (trace_directories.cc). `path`: of the host, any pointer.
std::optional<std::string> trace_path(const char* path);

// The files of what programs print. They are always ours: under `bpftime load` the kernel's show other programs' lines.
enum class TraceFile { kNone, kTrace, kTracePipe };
TraceFile trace_file(std::string_view path);
bool is_tracefs_root(std::string_view path);
// Why there is no such file of tracefs under us: it is about probes or events inside the kernel. nullopt: another path.
std::optional<std::string> kernel_only_file(std::string_view path);
// open(2) of one: a descriptor or -errno.
int64_t open_trace_file(TraceFile file, int flags);

// What the daemon calls the tracepoint that this process knows as `id`; other numbers stay as they are.
uint64_t daemon_tracepoint_id(uint64_t id);

}  // namespace bpftime::loader
