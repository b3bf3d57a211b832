// System calls on paths in a supervised process (supervisor.h): files that exist only under `bpftime load`.
#pragma once

#include <cstdint>
#include <optional>

namespace bpftime::loader {

// A system call of a path, its result or -errno; nullopt: the kernel's business. `args` are the host's.
std::optional<int64_t> supervised_path_call(long number, const uint64_t* args);

}  // namespace bpftime::loader
