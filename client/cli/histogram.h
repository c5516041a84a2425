#ifndef NORMD_CLIENT_CLI_HISTOGRAM_H_
#define NORMD_CLIENT_CLI_HISTOGRAM_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace normd::cli {

// Counts of values >= 0 (latencies in nanoseconds, say) in buckets that are 1 wide below 256 and then double in width
// with every power of two, 128 buckets to each: the scheme of HdrHistogram (hdrhistogram.org). What it says of a
// recorded value is off by at most 1/256 of it. Adding is O(1); memory follows the greatest value, at most 58 KB.
// Not thread-safe.
class LatencyHistogram {
 public:
  // A value below 0 counts as 0.
  void Add(int64_t value);
  // Adds all that `other` has counted; the same as having added its values here.
  void Merge(const LatencyHistogram& other);

  int64_t count() const { return count_; }
  // Exact; 0 when nothing was added.
  int64_t min() const { return count_ == 0 ? 0 : min_; }
  int64_t max() const { return max_; }
  double mean() const { return count_ == 0 ? 0 : sum_ / static_cast<double>(count_); }

  // The least value that `per_mille` thousandths of all values do not pass (nearest rank): 500 is the median, 1000 the
  // greatest. 0 when nothing was added. REQUIRES: 0 <= per_mille <= 1000.
  int64_t AtPerMille(int per_mille) const;
  // Whether at least ten values lie beyond that rank; with fewer it says more about chance than about the tail.
  bool HasTail(int per_mille) const { return count_ * (1000 - per_mille) >= 10'000; }

 private:
  static std::size_t BucketOf(int64_t value);
  // The middle of a bucket.
  static int64_t ValueOf(std::size_t bucket);

  std::vector<int64_t> buckets_;
  int64_t count_ = 0;
  int64_t min_ = 0;
  int64_t max_ = 0;
  double sum_ = 0;
};

}  // namespace normd::cli

#endif  // NORMD_CLIENT_CLI_HISTOGRAM_H_
