#ifndef NORMD_SERVER_STORE_STATE_STORE_H_
#define NORMD_SERVER_STORE_STATE_STORE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "server/layer/layer_state.h"

namespace normd::store {

// A Write that cannot tell what became of its updates: UNAVAILABLE. They count as not stored, and the store sees to
// that before it stores anything else; only if the server ends before that they may be there when the next one loads.
absl::Status OutcomeUnknownError(absl::string_view cause);
bool IsOutcomeUnknown(const absl::Status& status);
// "nothing has changed: ...", or what else is true after a Write has failed.
absl::Status WriteFailure(const absl::Status& status);

// A Write of a store that several servers share finds that another one has changed these layers: ABORTED, and nothing
// has changed. An empty uid: what concerns the store as a whole.
absl::Status ConflictError(absl::string_view cause, const std::vector<std::string>& uids);
bool IsConflict(const absl::Status& status);
// The uids; none for another status.
std::vector<std::string> ConflictUids(const absl::Status& status);

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
  // Of the layer; empty: a creation, a deletion or another call that concerns the server as a whole.
  std::string layer_uid;
  // Ascending among the records of a layer.
  int64_t sequence = 0;
  std::string request_id;
  absl::Time time;
  RequestOutcome outcome;

  friend bool operator==(const RequestRecord&, const RequestRecord&) = default;
};

// What some layers were at one moment, under a name. A plain value.
struct SnapshotInfo {
  std::string name;
  // What was selected: this layer or, if that is empty, all whose name starts with `prefix`.
  std::string layer;
  std::string prefix;
  int64_t num_layers = 0;
  absl::Time create_time;

  friend bool operator==(const SnapshotInfo&, const SnapshotInfo&) = default;
};

struct NamedSnapshot {
  SnapshotInfo info;
  std::vector<std::shared_ptr<const layer::LayerSnapshot>> layers;
};

// A layer that is gone, of which something is remembered in case it comes back: the records of its requests, and this.
// A plain value.
struct GoneLayer {
  std::string uid;
  // That it had at last.
  int64_t version = 0;
  std::shared_ptr<const layer::Contributors> contributors = nullptr;
  // When it went.
  absl::Time time;
};

// One change of what is stored; every part may be absent.
struct Update {
  // A new layer, or a new version of the layer with this uid.
  std::shared_ptr<const layer::LayerSnapshot> put = nullptr;
  // The version that the change builds on. If it is the one that is stored, parts that `put` shares with it need not be
  // written again. A store that several servers share refuses the change if another one is stored.
  std::shared_ptr<const layer::LayerSnapshot> replaces = nullptr;
  // A layer that goes. The records of its requests stay, and are its again if it is put again.
  std::optional<GoneLayer> remove = std::nullopt;
  std::optional<RequestRecord> request = std::nullopt;
  // Sequence of the record of the layer before that one, 0: there is none. -1: whatever there is.
  int64_t request_after = -1;
  // Records of the layer that `request` is for go, up to this sequence.
  int64_t forget_through = 0;
  // Uid of a layer that is gone: what is remembered of it goes too.
  std::string forget = {};
  // A new named snapshot.
  std::shared_ptr<const NamedSnapshot> put_snapshot = nullptr;
  // Name of a named snapshot that goes.
  std::string remove_snapshot = {};
  // It is all that somebody asked for, so that it may be stored although others of the same Write cannot be: only where
  // a store has to write again what it has lost.
  bool stands_alone = false;

  // Nothing is to be stored.
  bool IsEmpty() const {
    return put == nullptr && !remove.has_value() && !request.has_value() && forget.empty() && put_snapshot == nullptr &&
           remove_snapshot.empty();
  }
};

// A copy of a store that is being made, while the store goes on. What is written meanwhile is in it or not, by whole
// transactions.
class BackupCopy {
 public:
  virtual ~BackupCopy() = default;
  // Copies a piece that takes some milliseconds. True: the copy is complete. From the thread that writes.
  virtual absl::StatusOr<bool> Step() = 0;
};

// A record of a request, in the order of its layer. A plain value.
struct RequestMark {
  // 0: none.
  int64_t sequence = 0;
  std::string request_id;
};

// What several servers that use one store ask it, so that each knows what the others do. From the thread that writes.
class SharedStore {
 public:
  struct Changed {
    std::string uid;
    // What is stored now; 0: the layer is not there.
    int64_t version = 0;
    std::string content_hash;
    // Of its latest record; 0: none.
    int64_t last_sequence = 0;
  };
  struct Changes {
    // `layers` are all that there are, not only those that have changed.
    bool all = false;
    // Some may be as this server knows them. An empty uid: records that are no layer's.
    std::vector<Changed> layers;
    bool snapshots = false;
  };
  // What has been written since the last call, or since Load. If it fails, the next call tells it.
  virtual absl::StatusOr<Changes> ReadChanges() = 0;

  struct Query {
    std::string uid;
    // The latest record that the server knows to be stored.
    RequestMark known;
  };
  struct StoredLayer {
    // Null: there is none.
    std::shared_ptr<const layer::LayerSnapshot> snapshot;
    std::optional<GoneLayer> gone;
    // By sequence: those after the known one or, if that is not stored, all.
    std::vector<RequestRecord> requests;
    bool all_requests = false;
  };
  // Calls `use` for each of the layers.
  virtual absl::Status ReadLayers(absl::Span<const Query> queries,
                                  absl::FunctionRef<void(const Query&, StoredLayer)> use) = 0;

  // How often ReadChanges should be called.
  virtual absl::Duration poll_interval() const = 0;

 protected:
  ~SharedStore() = default;
};

// Where the layers of a server are kept. It decides nothing: what a change is and whether it may happen is settled when
// it comes here. One server at a time uses a store, unless it is shared(). Load comes first and once; then Write,
// from one thread at a time.
class StateStore {
 public:
  using SnapshotPtr = std::shared_ptr<const layer::LayerSnapshot>;

  virtual ~StateStore() = default;

  // Calls `layer` for every layer, then `request` for every record, those of a layer by sequence; also those of layers
  // that are gone. Ends with the first status that is not OK, theirs or its own; DATA_LOSS: what is stored is damaged.
  virtual absl::Status Load(absl::FunctionRef<absl::Status(SnapshotPtr)> layer,
                            absl::FunctionRef<absl::Status(RequestRecord)> request) = 0;

  // Carries out all `updates` in order, or none. When it returns they are as durable as the store promises. UNAVAILABLE
  // or RESOURCE_EXHAUSTED: it cannot write now; nothing has changed (but see OutcomeUnknownError), and it may be asked
  // again.
  virtual absl::Status Write(absl::Span<const Update> updates) = 0;

  // The layers that are gone and not forgotten. From the thread that writes.
  virtual absl::StatusOr<std::vector<GoneLayer>> ListGone() = 0;

  // The named snapshots, by name. From the thread that writes.
  virtual absl::StatusOr<std::vector<SnapshotInfo>> ListSnapshots() = 0;
  // Calls `layer` for every layer in a named snapshot, by name. Statuses as of Load, and NOT_FOUND. From the thread
  // that writes.
  virtual absl::Status ReadSnapshot(const std::string& name, absl::FunctionRef<absl::Status(SnapshotPtr)> layer) = 0;

  // Begins a copy of all that is stored in a file at `path`, which must not exist. FAILED_PRECONDITION: there is
  // nothing to make a file of. The copy goes before the store.
  virtual absl::StatusOr<std::unique_ptr<BackupCopy>> StartBackup(const std::string& path);

  // Whether Write takes so long that a thread of its own should do it, with all that comes meanwhile at once.
  virtual bool waits_for_disk() const { return false; }

  // Null: no other server writes.
  virtual SharedStore* shared() { return nullptr; }
};

}  // namespace normd::store

#endif  // NORMD_SERVER_STORE_STATE_STORE_H_
