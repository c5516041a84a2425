#ifndef NORMD_SERVER_SERVICE_OPEN_INFERENCE_REGIONS_H_
#define NORMD_SERVER_SERVICE_OPEN_INFERENCE_REGIONS_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "inference/open_inference_service.pb.h"
#include "normd/v1/tensor.pb.h"
#include "server/base/mutex.h"
#include "server/shm/region_registry.h"

namespace normd::service {

// The regions of shared memory that clients of the Open Inference Protocol register, by the names that they give them.
// They have no session: a region stays until it is unregistered. Statuses as open_inference_service.proto says.
// Thread-safe.
class OpenInferenceRegions {
 public:
  // Null: shared memory by name is off. `regions` outlives this.
  explicit OpenInferenceRegions(shm::RegionRegistry* regions) : regions_(regions) {}

  bool enabled() const { return regions_ != nullptr; }

  absl::Status Register(const ::inference::SystemSharedMemoryRegisterRequest& request);
  // An empty name: all.
  absl::Status Unregister(const std::string& name);
  // The same.
  absl::StatusOr<::inference::SystemSharedMemoryStatusResponse> List(const std::string& name) const;

  // `bytes` from `offset` of a region, as SharedMemoryRange names them. `what`: whose they are. NOT_FOUND: no such
  // region. INVALID_ARGUMENT: the range leaves it.
  absl::StatusOr<v1::SharedMemoryRange> Find(absl::string_view what, const std::string& name, int64_t offset,
                                             int64_t bytes) const;

 private:
  struct Entry {
    ::inference::SystemSharedMemoryStatusResponse::RegionStatus status;
    // In `regions_`.
    std::string region;
  };

  // FAILED_PRECONDITION: off. Otherwise the session that all regions belong to.
  absl::StatusOr<std::string> Session() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  shm::RegionRegistry* const regions_;
  mutable base::Mutex mutex_;
  // Empty until the first region comes.
  std::string session_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, Entry> entries_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace normd::service

#endif  // NORMD_SERVER_SERVICE_OPEN_INFERENCE_REGIONS_H_
