#pragma once

namespace mayfly {

// The project's version, as CMake states it.
const char* Version();

}  // namespace mayfly
