#ifndef NORMD_SERVER_STORE_MEMORY_STORE_H_
#define NORMD_SERVER_STORE_MEMORY_STORE_H_

#include <map>
#include <string>

#include "server/store/state_store.h"

namespace normd::store {

// Forgets everything when it goes. Holds the snapshots that the server holds anyway. Not thread-safe.
class MemoryStore final : public StateStore {
 public:
  absl::Status Load(absl::FunctionRef<absl::Status(SnapshotPtr)> layer,
                    absl::FunctionRef<absl::Status(RequestRecord)> request) override;
  absl::Status Write(absl::Span<const Update> updates) override;

 private:
  // By uid.
  std::map<std::string, SnapshotPtr> layers_;
  // By uid and sequence.
  std::map<std::string, std::map<int64_t, RequestRecord>> requests_;
};

}  // namespace normd::store

#endif  // NORMD_SERVER_STORE_MEMORY_STORE_H_
