#pragma once

// The one place where libtorch's exceptions become statuses. Used where a model loads, around a
// turn of the loop and what can fail by itself within it, and around an update; nowhere else does
// tensor code catch.

#include <exception>
#include <new>
#include <string>

#include <ATen/ATen.h>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace mayfly {

// libtorch has a type of its own for a device without memory, but not for a host without.
inline bool IsOutOfHostMemory(const c10::Error& error) {
  return absl::StrContains(error.what_without_backtrace(), "can't allocate memory");
}

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
    const std::string message = absl::StrCat(what, ": ", error.what_without_backtrace());
    return IsOutOfHostMemory(error) ? absl::ResourceExhaustedError(message)
                                    : absl::InternalError(message);
  } catch (const std::exception& error) {
    return absl::InternalError(absl::StrCat(what, ": ", error.what()));
  }
}

}  // namespace mayfly
