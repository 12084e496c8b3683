#pragma once

// How long things took, as counts in log-linear buckets (an HDR histogram): microseconds up to 255
// one by one, then 128 buckets for each doubling, so that a value is known to better than 0.8 % at
// any size in a few KiB. Histograms of several runs add up exactly. A value; one thread.

#include <cstdint>
#include <vector>

namespace mayfly::load {

class LatencyHistogram {
 public:
  struct Bucket {
    // Greatest value that it takes.
    double seconds = 0;
    uint64_t count = 0;
  };

  // Below zero counts as zero; above about nine days as that.
  void Record(double seconds);
  void Merge(const LatencyHistogram& other);

  uint64_t count() const { return count_; }
  // Exact; 0 when nothing was recorded.
  double mean() const;
  double min() const { return min_; }
  double max() const { return max_; }
  // The value that `share` (0 to 1) of all do not exceed, by nearest rank: the upper end of its
  // bucket, at most max(). 0 when nothing was recorded.
  double Percentile(double share) const;
  // Those that are not empty, ascending.
  std::vector<Bucket> Buckets() const;

 private:
  std::vector<uint64_t> counts_;
  uint64_t count_ = 0;
  double sum_ = 0;
  double min_ = 0;
  double max_ = 0;
};

}  // namespace mayfly::load
