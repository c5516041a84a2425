#ifndef NORMD_SNAPSHOT_H_
#define NORMD_SNAPSHOT_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/time/time.h"

// Named snapshots; plain values that mirror proto/normd/v1/snapshot_service.proto.
namespace normd {
inline namespace abi_0_1 {

// Which layers: this one or, without it, all whose name starts with `prefix`.
struct LayerSelection {
  std::string layer;   // Its name.
  std::string prefix;  // Empty, as `layer` is: every layer.
};

// What a snapshot is, without what it holds.
struct Snapshot {
  std::string name;          // Unique on the server.
  LayerSelection selection;  // What it was made of.
  int64_t num_layers = 0;    // Layers in it.
  absl::Time create_time;    // When it was made.
};

// Which layers of a snapshot or a backup come back, and as what.
struct RestoreSelection {
  LayerSelection selection;  // Default: all of it.
  // Absent: under their names. Otherwise `selection.layer`'s new name, or what takes the place of `selection.prefix`.
  std::optional<std::string> new_name;
};

}  // namespace abi_0_1
}  // namespace normd

#endif  // NORMD_SNAPSHOT_H_
