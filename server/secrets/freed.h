#pragma once

// Lets a unique_ptr own what a C library frees by a function of its own: Freed<BIO_free>.

namespace mayfly {

template <auto free>
struct Freed {
  template <typename Object>
  void operator()(Object* object) const {
    free(object);
  }
};

}  // namespace mayfly
