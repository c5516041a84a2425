#ifndef NORMD_WATCH_H_
#define NORMD_WATCH_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "normd/layer.h"

namespace normd {
inline namespace abi_0_1 {

// A version of a layer that one has.
struct KnownLayer {
  std::string name;     // As in Layer.
  std::string uid;      // As in Layer; another layer of that name comes anew.
  int64_t version = 0;  // Comes again when it is newer.
};

// What to watch.
struct WatchOptions {
  // These layers; NOT_FOUND: one does not exist. Empty: all whose name starts with `prefix`, those to come included.
  std::vector<std::string> names;
  std::string prefix;  // Where `names` is empty; empty, too: all layers.
  // With Layer::state, which holds all that it takes to normalize without the server.
  bool with_state = true;
  // At least this long between two changes of one layer, up to 1 hour; what lies between is left out.
  absl::Duration min_interval = absl::ZeroDuration();
  // What one has from before: it does not come again.
  std::vector<KnownLayer> known;
};

// What LayerWatch::Next returns.
struct LayerChange {
  // As it is now. Of a deleted layer name, uid and last known version only.
  Layer layer;
  // It is gone. One of the same name may come later.
  bool deleted = false;
};

// The layers that are watched, first as they are and then whenever they change. Who is slow gets the newest version and
// not those between. A connection that is lost, and a server that stops, are waited for: when it is back, the watch
// goes on with what it has. Thread-safe.
class LayerWatch {
 public:
  // Cancels it.
  virtual ~LayerWatch() = default;

  // The next change; blocks. CANCELLED after Cancel; what the server refuses (NOT_FOUND, INVALID_ARGUMENT,
  // UNIMPLEMENTED of an older server, ...) ends the watch, and comes again from then on. One thread at a time.
  virtual absl::StatusOr<LayerChange> Next() = 0;
  // Ends the watch, and a Next that waits.
  virtual void Cancel() = 0;
};

}  // namespace abi_0_1
}  // namespace normd

#endif  // NORMD_WATCH_H_
