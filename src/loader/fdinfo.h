// /proc/self/fdinfo/N of our maps and programs: what the kernel shows of its own there, and tools read.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace bpftime::loader {

// The file's contents, when `path` names a descriptor of this process that is a map or a program of ours.
std::optional<std::string> fdinfo_file(std::string_view path);

}  // namespace bpftime::loader
