#pragma once

// The one place where libtorch's exceptions become statuses. Used where a model loads, around a
// loop step, and around an update; nowhere else does tensor code catch.

#include <exception>
#include <new>

#include <ATen/ATen.h>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace mayfly {

// Runs `work`. Out of memory becomes kResourceExhausted, any other exception kInternal.
template <typename Work>
absl::Status RunGuarded(const char* what, Work&& work) {
  try {
    work();
    return absl::OkStatus();
  } catch (const c10::OutOfMemoryError& error) {
    return absl::ResourceExhaustedError(absl::StrCat(what, ": ", error.what_without_backtrace()));
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(absl::StrCat(what, ": out of memory"));
  } catch (const c10::Error& error) {
    return absl::InternalError(absl::StrCat(what, ": ", error.what_without_backtrace()));
  } catch (const std::exception& error) {
    return absl::InternalError(absl::StrCat(what, ": ", error.what()));
  }
}

}  // namespace mayfly
