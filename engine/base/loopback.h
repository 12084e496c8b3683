#pragma once

// Which addresses stay on this machine: the line between what needs no protection and what does.

#include "absl/strings/string_view.h"

namespace mayfly {

// Can only this machine reach `address`, host:port or unix:path?
bool IsLoopback(absl::string_view address);

}  // namespace mayfly
