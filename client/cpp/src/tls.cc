#include "client/cpp/src/tls.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "client/cpp/src/file.h"

namespace normd::internal {
namespace {

using CertificatePtr = std::unique_ptr<X509, decltype(&X509_free)>;
using KeyPtr = std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)>;

// For an encrypted key: OpenSSL would ask the terminal.
int NoPassword(char* /*buffer*/, int /*size*/, int /*writing*/, void* /*context*/) { return 0; }

template <typename Read>
auto Parse(const std::string& pem, Read read) {
  const std::unique_ptr<BIO, decltype(&BIO_free)> bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())),
                                                      BIO_free);
  auto* const parsed = read(bio.get());
  // What failed stays queued for this thread, and gRPC would take it for its own.
  ERR_clear_error();
  return parsed;
}

CertificatePtr FirstCertificate(const std::string& pem) {
  return {Parse(pem, [](BIO* bio) { return PEM_read_bio_X509(bio, nullptr, NoPassword, nullptr); }), X509_free};
}

KeyPtr Key(const std::string& pem) {
  return {Parse(pem, [](BIO* bio) { return PEM_read_bio_PrivateKey(bio, nullptr, NoPassword, nullptr); }),
          EVP_PKEY_free};
}

absl::Status NoCertificate(absl::string_view whose) {
  return absl::FailedPreconditionError(absl::StrCat(whose, " holds no certificate in PEM (BEGIN CERTIFICATE)"));
}

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> TlsCredentials(const TlsOptions& options) {
  grpc::SslCredentialsOptions ssl;
  if (!options.root_certificates_file.empty()) {
    const std::string whose = absl::StrCat("tls.root_certificates_file '", options.root_certificates_file, "'");
    absl::StatusOr<std::string> pem = ReadFile(options.root_certificates_file, whose);
    if (!pem.ok()) return pem.status();
    if (FirstCertificate(*pem) == nullptr) return NoCertificate(whose);
    ssl.pem_root_certs = *std::move(pem);
  }
  const std::string& chain_file = options.certificate_chain_file;
  const std::string& key_file = options.private_key_file;
  if (chain_file.empty() != key_file.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("got tls.",
                                                   chain_file.empty()
                                                       ? "private_key_file without certificate_chain_file"
                                                       : "certificate_chain_file without private_key_file",
                                                   ", want both or neither"));
  }
  if (!chain_file.empty()) {
    const std::string whose_chain = absl::StrCat("tls.certificate_chain_file '", chain_file, "'");
    const std::string whose_key = absl::StrCat("tls.private_key_file '", key_file, "'");
    absl::StatusOr<std::string> chain = ReadFile(chain_file, whose_chain);
    if (!chain.ok()) return chain.status();
    const CertificatePtr certificate = FirstCertificate(*chain);
    if (certificate == nullptr) return NoCertificate(whose_chain);
    absl::StatusOr<std::string> key_pem = ReadFile(key_file, whose_key);
    if (!key_pem.ok()) return key_pem.status();
    const KeyPtr key = Key(*key_pem);
    if (key == nullptr) {
      return absl::FailedPreconditionError(
          absl::StrCat(whose_key, " holds no private key in PEM (BEGIN PRIVATE KEY) that needs no password"));
    }
    if (X509_check_private_key(certificate.get(), key.get()) != 1) {
      ERR_clear_error();
      return absl::FailedPreconditionError(
          absl::StrCat(whose_key, " is not the key of the first certificate in ", whose_chain));
    }
    ssl.pem_cert_chain = *std::move(chain);
    ssl.pem_private_key = *std::move(key_pem);
  }
  return grpc::SslCredentials(ssl);
}

}  // namespace normd::internal
