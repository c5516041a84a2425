#ifndef NORMD_SERVER_REGISTRY_RECENT_VERSIONS_H_
#define NORMD_SERVER_REGISTRY_RECENT_VERSIONS_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "server/layer/layer_state.h"

namespace normd::registry {

// How many versions before the newest are kept for readers that ask for one.
struct VersionLimits {
  // Of a layer.
  std::size_t per_layer = 16;
  // Memory of those of all layers together. A layer that changes while there is more gives its own oldest up.
  int64_t total_bytes = int64_t{256} << 20;
};

// The latest versions of a layer but the newest. Not thread-safe.
class RecentVersions {
 public:
  using SnapshotPtr = std::shared_ptr<const layer::LayerSnapshot>;

  // `total_bytes` counts what all layers of a server keep and outlives them.
  RecentVersions(const VersionLimits& limits, std::atomic<int64_t>* total_bytes)
      : limits_(limits), total_bytes_(total_bytes) {}
  ~RecentVersions();
  RecentVersions(const RecentVersions&) = delete;
  RecentVersions& operator=(const RecentVersions&) = delete;

  // Keeps a version that is no longer the newest, later than all before. Returns what had to go for it, so that the
  // caller may let go of that when it holds no lock.
  SnapshotPtr Add(SnapshotPtr replaced);
  // Keeps none any more.
  void Clear();
  // Null: it is not kept.
  SnapshotPtr Find(int64_t version) const;
  // All that are kept, ascending.
  std::vector<int64_t> Numbers() const;

 private:
  SnapshotPtr RemoveOldest();

  const VersionLimits limits_;
  std::atomic<int64_t>* const total_bytes_;
  // Ascending.
  std::deque<SnapshotPtr> versions_;
};

}  // namespace normd::registry

#endif  // NORMD_SERVER_REGISTRY_RECENT_VERSIONS_H_
