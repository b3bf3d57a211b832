// Types as a manifest may have them: hostile debug information can say that a type is made of itself.
#pragma once

#include "base/result.h"
#include "program/type_table.h"

namespace bpftime::eim {

// Errors name the type that contains itself, or is nested deeper than program::kTypeDepthMax: through typedefs, qualifiers, arrays
// and members by value. Pointers and functions may lead anywhere.
Result<void> check_types(const program::TypeTable& table);

}  // namespace bpftime::eim
