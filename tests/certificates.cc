#include "tests/certificates.h"

#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <algorithm>
#include <cstdint>

namespace normd::tests {
namespace {

std::string Written(BIO* bio) {
  char* data = nullptr;
  const auto size = static_cast<std::size_t>(BIO_get_mem_data(bio, &data));
  std::string text(data, size);
  BIO_free(bio);
  return text;
}

void AddExtension(X509* issuer, X509* subject, int nid, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx_nodb(&context);
  X509V3_set_ctx(&context, issuer, subject, nullptr, nullptr, 0);
  X509_EXTENSION* const extension = X509V3_EXT_conf_nid(nullptr, &context, nid, value.c_str());
  X509_add_ext(subject, extension, -1);
  X509_EXTENSION_free(extension);
}

}  // namespace

Certificate Certificate::Authority(const std::string& name) { return Make(name, std::chrono::hours(24), nullptr); }

Certificate Certificate::Issue(const std::string& name, std::chrono::seconds lifetime) const {
  return Make(name, lifetime, this);
}

Certificate Certificate::Make(const std::string& name, std::chrono::seconds lifetime, const Certificate* issuer) {
  Certificate made;
  made.pkey_.reset(EVP_EC_gen("P-256"), EVP_PKEY_free);
  made.x509_.reset(X509_new(), X509_free);
  X509* const x509 = made.x509_.get();
  X509* const signer = issuer != nullptr ? issuer->x509_.get() : x509;
  X509_set_version(x509, X509_VERSION_3);
  uint32_t serial = 0;
  RAND_bytes(reinterpret_cast<unsigned char*>(&serial), sizeof(serial));
  ASN1_INTEGER_set_uint64(X509_get_serialNumber(x509), serial);
  X509_gmtime_adj(X509_getm_notBefore(x509), std::min<int64_t>(-60, lifetime.count() - 60));
  X509_gmtime_adj(X509_getm_notAfter(x509), lifetime.count());
  X509_NAME_add_entry_by_txt(X509_get_subject_name(x509), "CN", MBSTRING_UTF8,
                             reinterpret_cast<const unsigned char*>(name.data()), static_cast<int>(name.size()), -1, 0);
  X509_set_issuer_name(x509, X509_get_subject_name(signer));
  X509_set_pubkey(x509, made.pkey_.get());
  AddExtension(signer, x509, NID_basic_constraints, issuer == nullptr ? "critical,CA:TRUE" : "CA:FALSE");
  if (issuer != nullptr) AddExtension(signer, x509, NID_subject_alt_name, "DNS:" + name);
  X509_sign(x509, issuer != nullptr ? issuer->pkey_.get() : made.pkey_.get(), EVP_sha256());

  BIO* const certificate = BIO_new(BIO_s_mem());
  PEM_write_bio_X509(certificate, x509);
  made.certificate_ = Written(certificate);
  BIO* const key = BIO_new(BIO_s_mem());
  PEM_write_bio_PrivateKey(key, made.pkey_.get(), nullptr, nullptr, 0, nullptr, nullptr);
  made.key_ = Written(key);
  return made;
}

}  // namespace normd::tests
