#pragma once

// Matchers for absl::Status and absl::StatusOr.

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gmock/gmock.h"

namespace mayfly {

inline const absl::Status& GetStatus(const absl::Status& status) { return status; }
template <typename T>
const absl::Status& GetStatus(const absl::StatusOr<T>& status_or) {
  return status_or.status();
}

MATCHER(IsOk, negation ? "is not OK" : "is OK") {
  *result_listener << GetStatus(arg);
  return GetStatus(arg).ok();
}

MATCHER_P(HasCode, code, absl::StatusCodeToString(code)) {
  *result_listener << GetStatus(arg);
  return GetStatus(arg).code() == code;
}

// `message` is a matcher of the status's message.
MATCHER_P2(StatusIs, code, message, absl::StatusCodeToString(code)) {
  *result_listener << GetStatus(arg);
  return GetStatus(arg).code() == code &&
         testing::ExplainMatchResult(testing::Matcher<std::string>(message),
                                     std::string(GetStatus(arg).message()), result_listener);
}

}  // namespace mayfly
