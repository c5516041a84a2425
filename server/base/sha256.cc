#include "server/base/sha256.h"

#include <openssl/evp.h>

#include <memory>

namespace normd::base {
namespace {

struct Free {
  void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
};

// Looking the algorithm up costs more than hashing a small layer, and so does making a context: keep both.
const EVP_MD* Algorithm() {
  static const EVP_MD* const algorithm = EVP_MD_fetch(nullptr, "SHA256", nullptr);
  return algorithm;
}

EVP_MD_CTX* Context() {
  thread_local const std::unique_ptr<EVP_MD_CTX, Free> context(EVP_MD_CTX_new());
  return context.get();
}

}  // namespace

Sha256::Sha256() { EVP_DigestInit_ex(Context(), Algorithm(), nullptr); }

void Sha256::Add(const void* data, std::size_t bytes) { EVP_DigestUpdate(Context(), data, bytes); }

std::array<char, 32> Sha256::Digest() {
  std::array<char, 32> digest;
  EVP_DigestFinal_ex(Context(), reinterpret_cast<unsigned char*>(digest.data()), nullptr);
  return digest;
}

}  // namespace normd::base
