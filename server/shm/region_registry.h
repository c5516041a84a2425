#ifndef NORMD_SERVER_SHM_REGION_REGISTRY_H_
#define NORMD_SERVER_SHM_REGION_REGISTRY_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/base/mutex.h"
#include "server/shm/region.h"

namespace normd::shm {

// A range of a region, mapped for as long as this or a copy of it lives, whatever becomes of the region's registration.
// A client may write to it at any moment, so what was checked once may be different a moment later. Cheap to copy.
class RegionUse {
 public:
  // Constness is not the client's either.
  char* data() const { return data_; }
  int64_t size() const { return size_; }

  // DATA_LOSS: the region was cut short; what was read from `data` may be zeros, and what was written may be gone. To
  // be asked after the last access, before anything that cannot be taken back.
  absl::Status CheckNotLost() const { return region_->CheckNotLost(); }

 private:
  friend class RegionRegistry;
  friend absl::StatusOr<bool> SameRange(const RegionUse& a, const RegionUse& b);
  RegionUse(std::shared_ptr<const Region> region, char* data, int64_t offset, int64_t size)
      : region_(std::move(region)), data_(data), offset_(offset), size_(size) {}

  std::shared_ptr<const Region> region_;
  char* data_;
  int64_t offset_;
  int64_t size_;
};

// Whether two uses are the same bytes of the same object, of which each may have its own registration and so its own
// address: then use one pointer for both. False: they have no byte in common. INVALID_ARGUMENT: only some.
absl::StatusOr<bool> SameRange(const RegionUse& a, const RegionUse& b);

struct RegionRegistryOptions {
  // Most bytes that are mapped at a time, regions included that were unregistered and are still in use.
  int64_t max_bytes = int64_t{4} << 30;
  // Each region holds a file descriptor.
  int max_regions = 4096;
  int max_regions_per_session = 256;
  int max_sessions = 4096;
  Identity self = Identity::OfProcess();
};

// The sessions of the clients and their regions. Sessions and regions are named by secrets, which no message of a
// status repeats. Thread-safe; outlived by RegionUse.
class RegionRegistry {
 public:
  struct Session {
    // Names it.
    std::string id;
    // Its regions begin with this when they are registered. Absent: with anything.
    std::optional<std::string> key;
  };
  struct RegionInfo {
    std::string id;
    std::string name;
    int64_t size_bytes = 0;
    bool lost = false;
  };

  explicit RegionRegistry(const RegionRegistryOptions& options);
  ~RegionRegistry();
  RegionRegistry(const RegionRegistry&) = delete;
  RegionRegistry& operator=(const RegionRegistry&) = delete;

  enum class Proof {
    // That the client can write to a region: it writes the session's key there.
    kKey,
    // None: whoever has the session may name any object that fulfils the rules of Region. For protocols that have no
    // such key.
    kNone,
  };
  // RESOURCE_EXHAUSTED: there are max_sessions.
  absl::StatusOr<Session> OpenSession(Proof proof = Proof::kKey);
  // Unregisters what the session has. Does nothing if there is no such session.
  void EndSession(absl::string_view session);

  // Maps a region and returns its secret. Statuses: RegisterRegion in shared_memory_service.proto.
  absl::StatusOr<std::string> Register(absl::string_view session, const std::string& name, int64_t size_bytes);
  // Unmaps a region, once nobody uses it. NOT_FOUND: no such session, or no such region in it.
  absl::Status Unregister(absl::string_view session, absl::string_view region);
  // In the order of registration. NOT_FOUND: no such session.
  absl::StatusOr<std::vector<RegionInfo>> List(absl::string_view session) const;

  // `bytes` from `offset` of a region. NOT_FOUND: no such region, or no longer. Otherwise as Region::Resolve.
  absl::StatusOr<RegionUse> Use(absl::string_view region, int64_t offset, int64_t bytes, int64_t alignment) const;

  // What is mapped now.
  int64_t mapped_bytes() const { return budget_->bytes.load(); }
  int64_t num_sessions() const;
  int64_t num_regions() const { return budget_->regions.load(); }

 private:
  using RegionPtr = std::shared_ptr<const Region>;
  struct SessionEntry {
    std::optional<std::string> key;
    // In the order of registration.
    std::vector<std::pair<std::string, RegionPtr>> regions;
  };
  // What is mapped, and what is about to be. Shared with the regions, which may outlive the registry.
  struct Budget {
    std::atomic<int64_t> bytes = 0;
    std::atomic<int64_t> regions = 0;
  };
  class Reservation;
  struct Mapped;

  const RegionRegistryOptions options_;
  const std::shared_ptr<Budget> budget_;
  mutable base::SharedMutex mutex_;
  absl::flat_hash_map<std::string, SessionEntry> sessions_ ABSL_GUARDED_BY(mutex_);
  // Those of all sessions.
  absl::flat_hash_map<std::string, RegionPtr> regions_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace normd::shm

#endif  // NORMD_SERVER_SHM_REGION_REGISTRY_H_
