#include "server/layer/content_hash.h"

#include <array>
#include <bit>
#include <cstdint>
#include <limits>

#include "absl/strings/escaping.h"
#include "absl/strings/string_view.h"
#include "server/base/sha256.h"

// The arrays are hashed where they lie.
static_assert(std::endian::native == std::endian::little, "the hash is defined on little-endian bytes");

namespace normd::layer {

std::string ContentHash(const LayerConfig& config, const Statistics& statistics, const Affine& affine) {
  base::Sha256 hash;
  hash.Add("normd.v1", 8);
  hash.AddValue<int64_t>(config.num_channels);
  hash.AddValue<double>(config.eps);
  hash.AddValue<double>(config.clip.value_or(std::numeric_limits<double>::infinity()));
  hash.AddValue<uint8_t>(config.track_running_stats ? 1 : 0);
  hash.AddValue<uint8_t>(config.affine ? 1 : 0);
  if (config.track_running_stats) {
    hash.AddArray(statistics.running_mean);
    hash.AddArray(statistics.running_var);
  }
  if (config.affine) {
    hash.AddArray(affine.gamma);
    hash.AddArray(affine.beta);
  }
  const std::array<char, 32> digest = hash.Digest();
  return absl::BytesToHexString(absl::string_view(digest.data(), digest.size()));
}

}  // namespace normd::layer
