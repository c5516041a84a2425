#ifndef NORMD_SERVER_REGISTRY_REQUEST_LOG_H_
#define NORMD_SERVER_REGISTRY_REQUEST_LOG_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/node_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace normd::registry {

// Remembers the latest mutations by request_id, so that a retry is answered with what the first attempt did. Holds at
// most `capacity` of them and forgets the oldest. Not thread-safe.
class RequestLog {
 public:
  static constexpr std::size_t kDefaultCapacity = 4096;

  // What a mutation did.
  struct Outcome {
    // Identifies the call's content, so that the same id on another call is noticed.
    uint64_t fingerprint = 0;
    int64_t version = 0;
    std::string content_hash;
    int64_t num_batches_tracked = 0;
    // Creations only: which layer it was.
    std::string uid;
  };

  explicit RequestLog(std::size_t capacity = kDefaultCapacity) : capacity_(capacity) {}

  // The outcome remembered for `request_id`, or null if there is none or the id is empty. INVALID_ARGUMENT: it is
  // remembered with another fingerprint. The pointer lives until the next Record.
  absl::StatusOr<const Outcome*> Find(absl::string_view request_id, uint64_t fingerprint) const;

  // Remembers; does nothing for an empty id. REQUIRES: Find returned null for this id.
  void Record(absl::string_view request_id, const Outcome& outcome);

 private:
  const std::size_t capacity_;
  absl::node_hash_map<std::string, Outcome> outcomes_;
  // A ring of the keys of outcomes_, which nodes keep in place; the oldest stands at next_ once the ring is full.
  std::vector<absl::string_view> order_;
  std::size_t next_ = 0;
};

}  // namespace normd::registry

#endif  // NORMD_SERVER_REGISTRY_REQUEST_LOG_H_
