// The daemon's JSON answers as text. Every field is optional here: an older or newer daemon must not
// make printing fail.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace bpftime::cli {

using Json = nlohmann::json;

// Pretty JSON and a newline to stdout; bytes that are not UTF-8 are replaced.
void print_json(const Json& json);

std::string attach_text(const std::string& command, const Json& result);  // "attached 4711 (nginx): 2 probes"
std::string list_text(const Json& answer);
std::string status_text(const Json& answer);

// A field as text ("" when absent), whatever its JSON type.
std::string field(const Json& object, const char* name);

}  // namespace bpftime::cli
