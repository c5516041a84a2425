#ifndef NORMD_SERVER_ACCESS_ACCESS_LIST_H_
#define NORMD_SERVER_ACCESS_ACCESS_LIST_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/access/rate_limiter.h"
#include "server/access/role.h"

namespace normd::access {

// Somebody who calls: his name in logs, and what he may do. A plain value.
struct Identity {
  std::string name;
  std::vector<Grant> grants;
  // Most calls a second; 0: the limit that all have.
  double calls_per_second = 0;
  // Null: he may call as often as he likes.
  std::shared_ptr<RateLimiter> limiter;

  // For at least one layer.
  bool Has(Role role) const;
  bool Allows(Role role, absl::string_view layer) const;
  // For every layer whose name starts with `prefix`, there or yet to come.
  bool AllowsPrefix(Role role, absl::string_view prefix) const;
};

// Who may call, and how he shows who he is. Immutable, so thread-safe.
class AccessList {
 public:
  // A line for each identity, with '#' before comments:
  //
  //   NAME CREDENTIAL GRANT... [rate=CALLS_PER_SECOND]
  //
  // with a CREDENTIAL out of
  //   sha256:HEX   the SHA-256 of a token
  //   cert:NAME    a client certificate with this common or alternative name
  //   anonymous    nothing at all
  //
  // Several lines with one NAME are one identity with several credentials and all the grants. INVALID_ARGUMENT, with
  // the number of the line and nothing secret.
  static absl::StatusOr<AccessList> Parse(absl::string_view text);

  // Null: nobody has this one.
  std::shared_ptr<const Identity> FindToken(absl::string_view sha256) const;
  std::shared_ptr<const Identity> FindCertificate(absl::string_view name) const;
  std::shared_ptr<const Identity> anonymous() const { return anonymous_; }
  bool has_certificates() const { return !certificates_.empty(); }

  // To fill in the limiters, before anybody else knows the list.
  const absl::flat_hash_map<std::string, std::shared_ptr<Identity>>& identities() const { return identities_; }

 private:
  // By name.
  absl::flat_hash_map<std::string, std::shared_ptr<Identity>> identities_;
  // By the 32 bytes of the hash.
  absl::flat_hash_map<std::string, std::shared_ptr<Identity>> tokens_;
  absl::flat_hash_map<std::string, std::shared_ptr<Identity>> certificates_;
  std::shared_ptr<Identity> anonymous_;
};

}  // namespace normd::access

#endif  // NORMD_SERVER_ACCESS_ACCESS_LIST_H_
