#pragma once

// The machine-readable output: one JSON object a line, its `type` first.

#include <ostream>

#include "absl/strings/string_view.h"
#include "client/proto_fields.h"

namespace mayfly::cli {

// Writes {"type": type, ...fields} and flushes. Numbers that are not finite become null.
void WriteJsonLine(std::ostream& out, absl::string_view type, const Json& fields);

}  // namespace mayfly::cli
