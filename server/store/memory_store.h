#ifndef NORMD_SERVER_STORE_MEMORY_STORE_H_
#define NORMD_SERVER_STORE_MEMORY_STORE_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "server/store/state_store.h"

namespace normd::store {

// Forgets everything when it goes. Holds the snapshots that the server holds anyway. Not thread-safe.
class MemoryStore final : public StateStore {
 public:
  absl::Status Load(absl::FunctionRef<absl::Status(SnapshotPtr)> layer,
                    absl::FunctionRef<absl::Status(RequestRecord)> request) override;
  absl::Status Write(absl::Span<const Update> updates) override;
  absl::StatusOr<std::vector<GoneLayer>> ListGone() override;
  absl::StatusOr<std::vector<SnapshotInfo>> ListSnapshots() override;
  absl::Status ReadSnapshot(const std::string& name, absl::FunctionRef<absl::Status(SnapshotPtr)> layer) override;

 private:
  // By uid.
  std::map<std::string, SnapshotPtr> layers_;
  // By uid and sequence.
  std::map<std::string, std::map<int64_t, RequestRecord>> requests_;
  std::map<std::string, GoneLayer> gone_;
  // By name.
  std::map<std::string, std::shared_ptr<const NamedSnapshot>> snapshots_;
};

}  // namespace normd::store

#endif  // NORMD_SERVER_STORE_MEMORY_STORE_H_
