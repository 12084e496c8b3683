#pragma once

// A report as a terminal shows it. Pure.

#include <string>

#include "client/proto_fields.h"

namespace mayfly::load {

// `report` as for ReportHtml.
std::string ReportText(const cli::Json& report);

}  // namespace mayfly::load
