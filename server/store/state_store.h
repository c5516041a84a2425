#ifndef NORMD_SERVER_STORE_STATE_STORE_H_
#define NORMD_SERVER_STORE_STATE_STORE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "server/layer/layer_state.h"

namespace normd::store {

// What a mutation did, remembered so that a retry is answered with it. A plain value.
struct RequestOutcome {
  // Identifies the call's content, so that the same id on another call is noticed.
  uint64_t fingerprint = 0;
  int64_t version = 0;
  std::string content_hash;
  int64_t num_batches_tracked = 0;
  // Creations only: which layer it was.
  std::string uid;

  friend bool operator==(const RequestOutcome&, const RequestOutcome&) = default;
};

// A remembered mutation.
struct RequestRecord {
  // Of the layer; empty: a creation or a deletion.
  std::string layer_uid;
  // Ascending among the records of a layer.
  int64_t sequence = 0;
  std::string request_id;
  absl::Time time;
  RequestOutcome outcome;

  friend bool operator==(const RequestRecord&, const RequestRecord&) = default;
};

// One change of what is stored; every part may be absent.
struct Update {
  // A new layer, or a new version of the layer with this uid.
  std::shared_ptr<const layer::LayerSnapshot> put;
  // The version that the change builds on. If it is the one that is stored, parts that `put` shares with it need not be
  // written again.
  std::shared_ptr<const layer::LayerSnapshot> replaces;
  // Uid of a layer that goes, with the records of its requests.
  std::string remove;
  std::optional<RequestRecord> request;
  // Records of the layer that `request` is for go, up to this sequence.
  int64_t forget_through = 0;
};

// Where the layers of a server are kept. It decides nothing: what a change is and whether it may happen is settled when
// it comes here. One server at a time uses a store. Load comes first and once; then Write,
// from one thread at a time.
class StateStore {
 public:
  using SnapshotPtr = std::shared_ptr<const layer::LayerSnapshot>;

  virtual ~StateStore() = default;

  // Calls `layer` for every layer, then `request` for every record, those of a layer by sequence. Ends with the first
  // status that is not OK, theirs or its own; DATA_LOSS: what is stored is damaged.
  virtual absl::Status Load(absl::FunctionRef<absl::Status(SnapshotPtr)> layer,
                            absl::FunctionRef<absl::Status(RequestRecord)> request) = 0;

  // Carries out all `updates` in order, or none. When it returns they are as durable as the store promises. UNAVAILABLE
  // or RESOURCE_EXHAUSTED: it cannot write now; nothing has changed, and it may be asked again.
  virtual absl::Status Write(absl::Span<const Update> updates) = 0;

  // Whether Write takes so long that a thread of its own should do it, with all that comes meanwhile at once.
  virtual bool waits_for_disk() const { return false; }
};

}  // namespace normd::store

#endif  // NORMD_SERVER_STORE_STATE_STORE_H_
