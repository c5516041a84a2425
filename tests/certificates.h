#ifndef NORMD_TESTS_CERTIFICATES_H_
#define NORMD_TESTS_CERTIFICATES_H_

#include <openssl/types.h>

#include <chrono>
#include <memory>
#include <string>

namespace normd::tests {

// A certificate and its key, made for one test.
class Certificate {
 public:
  // One that signs itself and others.
  static Certificate Authority(const std::string& name);
  // For `name`, which is the common name and the alternative one, and valid for `lifetime` from now; negative: it has
  // been over for so long.
  Certificate Issue(const std::string& name, std::chrono::seconds lifetime = std::chrono::hours(1)) const;

  // In PEM.
  const std::string& certificate() const { return certificate_; }
  const std::string& key() const { return key_; }

 private:
  static Certificate Make(const std::string& name, std::chrono::seconds lifetime, const Certificate* issuer);

  std::shared_ptr<X509> x509_;
  std::shared_ptr<EVP_PKEY> pkey_;
  std::string certificate_;
  std::string key_;
};

}  // namespace normd::tests

#endif  // NORMD_TESTS_CERTIFICATES_H_
