#ifndef NORMD_SERVER_ACCESS_CALLER_H_
#define NORMD_SERVER_ACCESS_CALLER_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "server/access/access_control.h"
#include "server/access/role.h"

namespace normd::access {

// What a call shows of who makes it.
struct Credentials {
  // Values of its metadata `authorization`.
  std::vector<absl::string_view> authorizations;
  // Names in the certificate of its connection.
  std::vector<std::string> certificate_names;
};

// Who makes a call, for as long as it lasts: what he may do is looked up each time, so that a long stream of somebody
// who is taken out of the access file ends up empty. Copyable. Thread-safe.
class Caller {
 public:
  // Somebody who may do everything.
  Caller() = default;
  // `control` may be null, and outlives this.
  Caller(const AccessControl* control, const Credentials& credentials);

  // UNAUTHENTICATED: it is nobody.
  absl::StatusOr<std::shared_ptr<const Identity>> Identify() const;
  // For logs; empty: nobody, or nobody asks.
  std::string name() const;

  // UNAUTHENTICATED, or PERMISSION_DENIED naming who wants what.
  // For at least one layer.
  absl::Status CheckSome(Role role) const;
  // For one layer.
  absl::Status Check(Role role, absl::string_view layer) const;
  // For every layer whose name starts with `prefix`.
  absl::Status CheckPrefix(Role role, absl::string_view prefix) const;
  bool Allows(Role role, absl::string_view layer) const { return control_ == nullptr || Check(role, layer).ok(); }

  // Takes a call of those that his rate allows; zero: it may go on. Otherwise when to come again.
  absl::Duration TakeCall() const;

 private:
  const AccessControl* control_ = nullptr;
  // Not OK: no token, or what the call has is none.
  absl::StatusOr<std::string> token_sha256_ = absl::UnauthenticatedError("");
  bool has_token_ = false;
  std::vector<std::string> certificate_names_;
};

}  // namespace normd::access

#endif  // NORMD_SERVER_ACCESS_CALLER_H_
