#ifndef NORMD_CLIENT_CLI_STATE_JSON_H_
#define NORMD_CLIENT_CLI_STATE_JSON_H_

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "normd/layer.h"
#include "normd/snapshot.h"

// Layers as JSON, in the wire's order and names.
namespace normd::cli {

using Json = nlohmann::ordered_json;

// A double; NaN and infinities, which JSON has no words for, become strings as in protobuf's JSON.
Json ToJson(double value);
Json ToJson(const std::vector<double>& values);
Json ToJson(const LayerConfig& config);
Json ToJson(const LayerState& state);
Json ToJson(const Layer& layer);
Json ToJson(const Snapshot& snapshot);

// The state in `text`, which is a layer as printed by `normctl layer get --output json`, or its `state` alone.
// INVALID_ARGUMENT: it is neither.
absl::StatusOr<LayerState> ParseState(absl::string_view text);

}  // namespace normd::cli

#endif  // NORMD_CLIENT_CLI_STATE_JSON_H_
