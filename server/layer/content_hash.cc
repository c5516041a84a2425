#include "server/layer/content_hash.h"

#include <openssl/evp.h>

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>

#include "absl/strings/escaping.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

// The arrays are hashed where they lie.
static_assert(std::endian::native == std::endian::little, "the hash is defined on little-endian bytes");

namespace normd::layer {
namespace {

class Sha256 {
 public:
  Sha256() { EVP_DigestInit_ex(context(), Algorithm(), nullptr); }

  void Add(const void* data, size_t bytes) { EVP_DigestUpdate(context(), data, bytes); }
  template <typename T>
  void AddValue(T value) {
    Add(&value, sizeof(value));
  }
  void AddArray(absl::Span<const double> values) { Add(values.data(), values.size() * sizeof(double)); }

  std::string HexDigest() {
    std::array<char, 32> digest;
    EVP_DigestFinal_ex(context(), reinterpret_cast<unsigned char*>(digest.data()), nullptr);
    return absl::BytesToHexString(absl::string_view(digest.data(), digest.size()));
  }

 private:
  struct Free {
    void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
  };

  // Looking the algorithm up costs more than hashing a small layer, and so does making a context: keep both.
  static const EVP_MD* Algorithm() {
    static const EVP_MD* const algorithm = EVP_MD_fetch(nullptr, "SHA256", nullptr);
    return algorithm;
  }
  static EVP_MD_CTX* context() {
    thread_local const std::unique_ptr<EVP_MD_CTX, Free> context(EVP_MD_CTX_new());
    return context.get();
  }
};

}  // namespace

std::string ContentHash(const LayerConfig& config, const Statistics& statistics, const Affine& affine) {
  Sha256 hash;
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
  return hash.HexDigest();
}

}  // namespace normd::layer
