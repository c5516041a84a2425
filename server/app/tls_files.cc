#include "server/app/tls_files.h"

#include <openssl/asn1.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <ctime>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace normd::app {
namespace {

template <auto kFree>
struct Free {
  template <typename T>
  void operator()(T* object) const {
    kFree(object);
  }
};
using BioPtr = std::unique_ptr<BIO, Free<BIO_free_all>>;
using X509Ptr = std::unique_ptr<X509, Free<X509_free>>;
using KeyPtr = std::unique_ptr<EVP_PKEY, Free<EVP_PKEY_free>>;

BioPtr Open(const std::string& pem) { return BioPtr(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size()))); }

// The certificates in a PEM file, of which there has to be one.
absl::StatusOr<std::vector<X509Ptr>> ParseCertificates(absl::string_view option, const std::string& path,
                                                       const std::string& pem) {
  std::vector<X509Ptr> certificates;
  const BioPtr bio = Open(pem);
  while (X509Ptr certificate{PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr)}) {
    certificates.push_back(std::move(certificate));
  }
  const bool at_end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
  ERR_clear_error();
  if (!certificates.empty() && at_end) return certificates;
  return absl::InvalidArgumentError(absl::StrCat(
      option, ": ", path, certificates.empty() ? " has no certificate" : " has a damaged certificate", ", want PEM"));
}

absl::Time ToTime(const ASN1_TIME* time) {
  std::tm parts = {};
  ASN1_TIME_to_tm(time, &parts);
  return absl::FromTM(parts, absl::UTCTimeZone());
}

// A key with a password cannot be asked for one.
int NoPassword(char* /*buffer*/, int /*size*/, int /*writing*/, void* /*data*/) { return -1; }

absl::Status CheckKey(const TlsOptions& options, const TlsCertificates& files, X509* certificate) {
  const KeyPtr key(PEM_read_bio_PrivateKey(Open(files.key).get(), nullptr, NoPassword, nullptr));
  const bool matches = key != nullptr && X509_check_private_key(certificate, key.get()) == 1;
  ERR_clear_error();
  if (key == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("tls-key: ", options.key_file, " has no private key, want one in PEM without a password"));
  }
  if (matches) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("tls-key: the key in ", options.key_file, " is not that of the certificate in ", options.cert_file));
}

}  // namespace

absl::StatusOr<TlsCertificates> ReadTlsFiles(const TlsOptions& options, absl::Time now) {
  if (options.cert_file.empty() || options.key_file.empty()) {
    return absl::InvalidArgumentError("TLS takes both tls-cert and tls-key, and one of them is not set");
  }
  TlsCertificates files;
  for (const auto& [option, path, content] :
       {std::tuple("tls-cert", &options.cert_file, &files.cert), std::tuple("tls-key", &options.key_file, &files.key),
        std::tuple("tls-client-ca", &options.client_ca_file, &files.client_ca)}) {
    if (path->empty()) continue;
    absl::StatusOr<std::string> bytes = base::ReadFile(*path);
    if (!bytes.ok()) return absl::Status(bytes.status().code(), absl::StrCat(option, ": ", bytes.status().message()));
    *content = *std::move(bytes);
  }
  const absl::StatusOr<std::vector<X509Ptr>> chain = ParseCertificates("tls-cert", options.cert_file, files.cert);
  if (!chain.ok()) return chain.status();
  X509* const certificate = chain->front().get();
  if (absl::Status status = CheckKey(options, files, certificate); !status.ok()) return status;
  files.expires = ToTime(X509_get0_notAfter(certificate));
  if (files.expires <= now) {
    return absl::InvalidArgumentError(absl::StrCat("tls-cert: the certificate in ", options.cert_file, " expired at ",
                                                   absl::FormatTime(files.expires, absl::UTCTimeZone())));
  }
  if (!options.client_ca_file.empty()) {
    const auto authorities = ParseCertificates("tls-client-ca", options.client_ca_file, files.client_ca);
    if (!authorities.ok()) return authorities.status();
  }
  return files;
}

TlsFiles::TlsFiles(TlsOptions options, const base::Clock& clock, OnReload on_reload)
    : options_(std::move(options)),
      clock_(clock),
      files_(options_.client_ca_file.empty()
                 ? std::vector<std::string>{options_.cert_file, options_.key_file}
                 : std::vector<std::string>{options_.cert_file, options_.key_file, options_.client_ca_file},
             clock),
      on_reload_(std::move(on_reload)) {}

absl::StatusOr<std::unique_ptr<TlsFiles>> TlsFiles::Open(const TlsOptions& options, const base::Clock& clock,
                                                         OnReload on_reload) {
  std::unique_ptr<TlsFiles> files(new TlsFiles(options, clock, std::move(on_reload)));
  absl::StatusOr<TlsCertificates> read = ReadTlsFiles(options, clock.Now());
  if (!read.ok()) return read.status();
  const base::MutexLock lock(&files->mutex_);
  files->expires_ = read->expires;
  files->new_ = std::make_unique<TlsCertificates>(*std::move(read));
  return files;
}

std::unique_ptr<TlsCertificates> TlsFiles::TakeNew() {
  const base::MutexLock lock(&mutex_);
  if (files_.Changed()) {
    absl::StatusOr<TlsCertificates> read = ReadTlsFiles(options_, clock_.Now());
    on_reload_(read);
    if (read.ok()) {
      expires_ = read->expires;
      new_ = std::make_unique<TlsCertificates>(*std::move(read));
    }
  }
  return std::move(new_);
}

absl::Time TlsFiles::expires() {
  const base::MutexLock lock(&mutex_);
  return expires_;
}

}  // namespace normd::app
