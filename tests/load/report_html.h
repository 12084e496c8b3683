#pragma once

// A report as one HTML page that needs nothing else: no script, no network, light and dark. Pure.

#include <string>

#include "client/proto_fields.h"

namespace mayfly::load {

// `report` is what mayfly_load writes as JSON: conditions, runs (RunJson) and, after a search,
// capacity.
std::string ReportHtml(const cli::Json& report);

}  // namespace mayfly::load
