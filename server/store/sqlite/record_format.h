#ifndef NORMD_SERVER_STORE_SQLITE_RECORD_FORMAT_H_
#define NORMD_SERVER_STORE_SQLITE_RECORD_FORMAT_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/layer/layer_config.h"
#include "server/layer/layer_state.h"

// The parts of a layer as bytes in a column. Little-endian: numbers of 8 bytes, and lists of them behind their length.
// A part that grows gets its fields at the end, so that records of an older schema can be told by their length; what
// else changes is a new schema version (sqlite_store.cc).
namespace normd::store {

std::string Encode(const layer::LayerConfig& config);
std::string Encode(const layer::Statistics& statistics);
std::string Encode(const layer::Affine& affine);
std::string Encode(const layer::OptimizerState& optimizer);
std::string Encode(const layer::Contributors& contributors);
// A whole layer.
std::string Encode(const layer::LayerSnapshot& snapshot);

// DATA_LOSS: the bytes are no such record.
absl::StatusOr<layer::LayerConfig> DecodeConfig(absl::string_view bytes);
absl::StatusOr<layer::Statistics> DecodeStatistics(absl::string_view bytes);
absl::StatusOr<layer::Affine> DecodeAffine(absl::string_view bytes);
absl::StatusOr<layer::OptimizerState> DecodeOptimizer(absl::string_view bytes);
absl::StatusOr<layer::Contributors> DecodeContributors(absl::string_view bytes);
absl::StatusOr<std::shared_ptr<const layer::LayerSnapshot>> DecodeLayer(absl::string_view bytes);

// DATA_LOSS: the parts of the layer do not go together, or its content hash is not that of its state.
absl::Status CheckLayer(const layer::LayerSnapshot& snapshot);

}  // namespace normd::store

#endif  // NORMD_SERVER_STORE_SQLITE_RECORD_FORMAT_H_
