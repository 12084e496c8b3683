#include "server/version.h"

namespace mayfly {

const char* Version() { return MAYFLY_VERSION; }

}  // namespace mayfly
