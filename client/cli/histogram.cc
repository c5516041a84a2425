#include "client/cli/histogram.h"

#include <algorithm>
#include <bit>
#include <cassert>

namespace normd::cli {
namespace {

// Buckets to a power of two.
constexpr int kBucketBits = 7;
constexpr int64_t kBuckets = int64_t{1} << kBucketBits;

}  // namespace

std::size_t LatencyHistogram::BucketOf(int64_t value) {
  const int width = static_cast<int>(std::bit_width(static_cast<uint64_t>(value)));
  const int shift = std::max(0, width - kBucketBits - 1);
  return static_cast<std::size_t>(shift * kBuckets + (value >> shift));
}

int64_t LatencyHistogram::ValueOf(std::size_t bucket) {
  const auto place = static_cast<int64_t>(bucket);
  const int64_t shift = std::max<int64_t>(0, place / kBuckets - 1);
  const int64_t low = (place - shift * kBuckets) << shift;
  return low + ((int64_t{1} << shift) >> 1);
}

void LatencyHistogram::Add(int64_t value) {
  value = std::max<int64_t>(0, value);
  const std::size_t bucket = BucketOf(value);
  if (bucket >= buckets_.size()) buckets_.resize(bucket + 1);
  ++buckets_[bucket];
  min_ = count_ == 0 ? value : std::min(min_, value);
  max_ = std::max(max_, value);
  sum_ += static_cast<double>(value);
  ++count_;
}

void LatencyHistogram::Merge(const LatencyHistogram& other) {
  if (other.count_ == 0) return;
  if (other.buckets_.size() > buckets_.size()) buckets_.resize(other.buckets_.size());
  for (std::size_t i = 0; i < other.buckets_.size(); ++i) buckets_[i] += other.buckets_[i];
  min_ = count_ == 0 ? other.min_ : std::min(min_, other.min_);
  max_ = std::max(max_, other.max_);
  sum_ += other.sum_;
  count_ += other.count_;
}

int64_t LatencyHistogram::AtPerMille(int per_mille) const {
  assert(per_mille >= 0 && per_mille <= 1000);
  const int64_t rank = std::max<int64_t>(1, (count_ * per_mille + 999) / 1000);
  // The ends are known exactly.
  if (rank >= count_) return max_;
  int64_t seen = 0;
  for (std::size_t i = 0; i < buckets_.size(); ++i) {
    seen += buckets_[i];
    if (seen >= rank) return std::clamp(ValueOf(i), min_, max_);
  }
  return max_;
}

}  // namespace normd::cli
