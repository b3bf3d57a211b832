// bpftime eim check: a policy against its manifest, and extensions against their classes, without daemon or host.
#pragma once

#include <string>

namespace bpftime::cli {

struct EimCheck {
  std::string policy;
  std::string program;     // an object file; empty: the policy alone
  std::string class_name;  // empty: the class that the policy's extensions give the program
};

int eim_check(const EimCheck& check, bool json);

}  // namespace bpftime::cli
