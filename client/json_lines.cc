#include "client/json_lines.h"

#include <string>

namespace mayfly::cli {

void WriteJsonLine(std::ostream& out, absl::string_view type, const Json& fields) {
  Json line = Json::object({{"type", std::string(type)}});
  line.update(fields);
  constexpr auto kReplaceBadUtf8 = Json::error_handler_t::replace;
  out << line.dump(/*indent=*/-1, ' ', /*ensure_ascii=*/false, kReplaceBadUtf8) << std::endl;
}

}  // namespace mayfly::cli
