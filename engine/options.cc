#include "engine/options.h"

#include "absl/strings/str_cat.h"

namespace mayfly {
namespace {

absl::Status AtLeast(const char* name, int64_t value, int64_t limit) {
  if (value >= limit) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, " is ", value, ", it must be at least ", limit));
}

bool IsDevice(const std::string& device) {
  if (device == "cpu" || device == "cuda") return true;
  constexpr char kPrefix[] = "cuda:";
  const size_t digits = sizeof(kPrefix) - 1;
  return device.size() > digits && device.compare(0, digits, kPrefix) == 0 &&
         device.find_first_not_of("0123456789", digits) == std::string::npos;
}

}  // namespace

absl::Status EngineOptions::Validate() const {
  if (model_dir.empty())
    return absl::InvalidArgumentError("model is empty, it must name a directory");
  if (!IsDevice(device)) {
    return absl::InvalidArgumentError(
        absl::StrCat("device is '", device, "', it must be cpu, cuda or cuda:N"));
  }
  for (const absl::Status& status :
       {AtLeast("threads", threads, 0), AtLeast("slots", slots, 0),
        AtLeast("window_tokens", window_tokens, 2), AtLeast("max_rank", max_rank, 1),
        AtLeast("step_tokens", step_tokens, 1), AtLeast("update_threads", update_threads, 0),
        AtLeast("update_tokens", update_tokens, 1),
        AtLeast("max_update_tokens", max_update_tokens, update_tokens),
        AtLeast("update_group", update_group, 1)}) {
    if (!status.ok()) return status;
  }
  if (slots == 0 && memory_budget_bytes == 0) {
    return absl::InvalidArgumentError("slots is 0, which needs a memory_budget above 0");
  }
  return absl::OkStatus();
}

}  // namespace mayfly
