#ifndef NORMD_SERVER_APP_TLS_FILES_H_
#define NORMD_SERVER_APP_TLS_FILES_H_

#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/base/clock.h"
#include "server/base/mutex.h"
#include "server/base/watched_files.h"

namespace normd::app {

// PEM files; `cert` and `key` belong together.
struct TlsOptions {
  // The server's certificate, followed by those that lead to its root; empty: no TLS.
  std::string cert_file;
  std::string key_file;
  // Certificates of those who sign clients' certificates, which every client then has to have; empty: none has to.
  std::string client_ca_file;

  bool enabled() const { return !cert_file.empty() || !key_file.empty() || !client_ca_file.empty(); }
};

// What stands in the files.
struct TlsCertificates {
  std::string cert;
  std::string key;
  std::string client_ca;
  // Of the server's own certificate.
  absl::Time expires;
};

// Reads the files. INVALID_ARGUMENT or another status, naming the file and nothing of its content: one cannot be read,
// is no PEM file of its kind, the key is not that of the certificate, or that is out of date at `now`.
absl::StatusOr<TlsCertificates> ReadTlsFiles(const TlsOptions& options, absl::Time now);

// The certificates as they stand in the files now: they are read again when those have changed, and what is wrong, like
// a key that the certificate's has not followed yet, changes nothing. Thread-safe.
class TlsFiles {
 public:
  // Is told when the files were read again: OK, or why those before them stay in use.
  using OnReload = absl::AnyInvocable<void(const absl::StatusOr<TlsCertificates>&)>;

  // `clock` outlives this. Statuses of ReadTlsFiles.
  static absl::StatusOr<std::unique_ptr<TlsFiles>> Open(const TlsOptions& options, const base::Clock& clock,
                                                        OnReload on_reload);

  // Null: the same as at the last call.
  std::unique_ptr<TlsCertificates> TakeNew();

  // When the certificate in use does.
  absl::Time expires();

  bool wants_client_certificate() const { return !options_.client_ca_file.empty(); }

 private:
  TlsFiles(TlsOptions options, const base::Clock& clock, OnReload on_reload);

  const TlsOptions options_;
  const base::Clock& clock_;
  base::WatchedFiles files_;
  base::Mutex mutex_;
  OnReload on_reload_ ABSL_GUARDED_BY(mutex_);
  absl::Time expires_ ABSL_GUARDED_BY(mutex_);
  // Not taken yet.
  std::unique_ptr<TlsCertificates> new_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace normd::app

#endif  // NORMD_SERVER_APP_TLS_FILES_H_
