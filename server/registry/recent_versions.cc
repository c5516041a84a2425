#include "server/registry/recent_versions.h"

#include <algorithm>
#include <utility>

namespace normd::registry {
namespace {

// About, and as if it shared nothing with its neighbours.
int64_t MemoryOf(const layer::LayerSnapshot& snapshot) {
  const layer::Statistics& statistics = *snapshot.statistics;
  const std::size_t values = statistics.running_mean.size() + statistics.running_var.size() +
                             statistics.sample_count.size() + statistics.skipped_batches.size() +
                             snapshot.affine->gamma.size() + snapshot.affine->beta.size();
  return 512 + static_cast<int64_t>(values * sizeof(double));
}

}  // namespace

RecentVersions::~RecentVersions() { Clear(); }

void RecentVersions::Clear() {
  while (!versions_.empty()) RemoveOldest();
}

RecentVersions::SnapshotPtr RecentVersions::Add(SnapshotPtr replaced) {
  if (limits_.per_layer == 0) return replaced;
  total_bytes_->fetch_add(MemoryOf(*replaced), std::memory_order_relaxed);
  versions_.push_back(std::move(replaced));
  SnapshotPtr gone;
  while (versions_.size() > limits_.per_layer ||
         (!versions_.empty() && total_bytes_->load(std::memory_order_relaxed) > limits_.total_bytes)) {
    gone = RemoveOldest();
  }
  return gone;
}

RecentVersions::SnapshotPtr RecentVersions::Find(int64_t version) const {
  const auto found = std::lower_bound(versions_.begin(), versions_.end(), version,
                                      [](const SnapshotPtr& kept, int64_t wanted) { return kept->version < wanted; });
  return found == versions_.end() || (*found)->version != version ? nullptr : *found;
}

std::vector<int64_t> RecentVersions::Numbers() const {
  std::vector<int64_t> numbers;
  numbers.reserve(versions_.size());
  for (const SnapshotPtr& version : versions_) numbers.push_back(version->version);
  return numbers;
}

RecentVersions::SnapshotPtr RecentVersions::RemoveOldest() {
  SnapshotPtr oldest = std::move(versions_.front());
  versions_.pop_front();
  total_bytes_->fetch_sub(MemoryOf(*oldest), std::memory_order_relaxed);
  return oldest;
}

}  // namespace normd::registry
