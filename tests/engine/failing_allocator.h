#pragma once

// Host memory that runs out when a test says so: libtorch's own allocator, of which one allocation,
// or every one from now on, fails as it does where there is no memory. One at a time, for all
// threads of the process, while it lives; armed and disarmed while nothing runs.

#include <atomic>
#include <cstdint>
#include <limits>

#include <ATen/ATen.h>
#include <c10/core/CPUAllocator.h>

namespace mayfly {

class FailingAllocator final : public c10::Allocator {
 public:
  FailingAllocator() : real_(c10::GetCPUAllocator()) { c10::SetCPUAllocator(this); }
  ~FailingAllocator() override { c10::SetCPUAllocator(real_); }
  FailingAllocator(const FailingAllocator&) = delete;
  FailingAllocator& operator=(const FailingAllocator&) = delete;

  // The `call`-th allocation from now fails, and no other.
  void FailOnly(int64_t call) { Arm(call, call); }
  void FailAll() { Arm(1, std::numeric_limits<int64_t>::max()); }
  // Returns whether an allocation has failed.
  bool Disarm() {
    Arm(0, 0);
    return struck_.exchange(false);
  }

  c10::DataPtr allocate(size_t bytes) override {
    const int64_t call = ++calls_;
    if (call >= first_ && call <= last_) {
      struck_ = true;
      TORCH_CHECK(false, "DefaultCPUAllocator: can't allocate memory: you tried to allocate ",
                  bytes, " bytes, on purpose");
    }
    return real_->allocate(bytes);
  }
  c10::DeleterFnPtr raw_deleter() const override { return real_->raw_deleter(); }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    real_->copy_data(to, from, bytes);
  }

 private:
  void Arm(int64_t first, int64_t last) {
    calls_ = 0;
    first_ = first;
    last_ = last;
  }

  c10::Allocator* const real_;
  std::atomic<int64_t> calls_{0};
  std::atomic<int64_t> first_{0};
  std::atomic<int64_t> last_{0};
  std::atomic<bool> struck_{false};
};

}  // namespace mayfly
