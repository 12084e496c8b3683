#pragma once

// Early returns for functions that return absl::Status or absl::StatusOr.

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define MAYFLY_CONCAT_INNER(a, b) a##b
#define MAYFLY_CONCAT(a, b) MAYFLY_CONCAT_INNER(a, b)

// Returns the status of `expression` unless it is OK.
#define MAYFLY_RETURN_IF_ERROR(expression)                                \
  do {                                                                    \
    if (absl::Status mayfly_status = (expression); !mayfly_status.ok()) { \
      return mayfly_status;                                               \
    }                                                                     \
  } while (false)

// Assigns the value of a StatusOr to `target` (which may be a declaration), or returns its status.
#define MAYFLY_ASSIGN_OR_RETURN(target, expression) \
  MAYFLY_ASSIGN_OR_RETURN_INNER(MAYFLY_CONCAT(mayfly_status_or_, __LINE__), target, expression)

#define MAYFLY_ASSIGN_OR_RETURN_INNER(name, target, expression) \
  auto name = (expression);                                     \
  if (!name.ok()) return std::move(name).status();              \
  target = *std::move(name)
