#ifndef NORMD_SERVER_LAYER_CONTENT_HASH_H_
#define NORMD_SERVER_LAYER_CONTENT_HASH_H_

#include <string>

#include "server/layer/layer_config.h"
#include "server/layer/layer_state.h"

namespace normd::layer {

// Lower-case hex SHA-256 of what inference with this layer depends on, so that anyone can check it in any language.
// The bytes, all little-endian: the 8 ASCII characters "normd.v1"; int64 num_channels; float64 eps; float64 clip
// (infinity: none); uint8 track_running_stats; uint8 affine; then float64 arrays running_mean, running_var (if
// tracked), gamma, beta (if affine), each num_channels long.
std::string ContentHash(const LayerConfig& config, const Statistics& statistics, const Affine& affine);

}  // namespace normd::layer

#endif  // NORMD_SERVER_LAYER_CONTENT_HASH_H_
