#include "server/access/caller.h"

#include <array>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/base/quoted.h"
#include "server/base/sha256.h"

namespace normd::access {
namespace {

constexpr absl::string_view kScheme = "Bearer ";

// Of the token in "Bearer TOKEN". UNAUTHENTICATED, without a word of it: there is none.
absl::StatusOr<std::string> HashOfToken(const std::vector<absl::string_view>& authorizations) {
  if (authorizations.size() > 1) {
    return absl::UnauthenticatedError(
        absl::StrCat("there are ", authorizations.size(), " authorizations, want one: 'authorization: Bearer TOKEN'"));
  }
  const absl::string_view authorization = authorizations.front();
  if (!absl::StartsWithIgnoreCase(authorization, kScheme)) {
    return absl::UnauthenticatedError("the authorization is no token, want 'authorization: Bearer TOKEN'");
  }
  const absl::string_view token = absl::StripAsciiWhitespace(authorization.substr(kScheme.size()));
  base::Sha256 hash;
  hash.Add(token.data(), token.size());
  const std::array<char, 32> digest = hash.Digest();
  return std::string(digest.data(), digest.size());
}

absl::Status Missing(const Identity& identity, Role role, absl::string_view for_what) {
  return absl::PermissionDeniedError(
      absl::StrCat("'", identity.name, "' does not have the role ", RoleName(role), " for ", for_what));
}

}  // namespace

Caller::Caller(const AccessControl* control, const Credentials& credentials)
    : control_(control), certificate_names_(credentials.certificate_names) {
  if (control_ == nullptr || !control_->identifies() || credentials.authorizations.empty()) return;
  has_token_ = true;
  token_sha256_ = HashOfToken(credentials.authorizations);
}

absl::StatusOr<std::shared_ptr<const Identity>> Caller::Identify() const {
  if (!control_->identifies()) return control_->everybody();
  const std::shared_ptr<const AccessList> list = control_->list();
  std::shared_ptr<const Identity> identity;
  if (has_token_) {
    if (!token_sha256_.ok()) return token_sha256_.status();
    identity = list->FindToken(*token_sha256_);
    // Not the certificate's instead: whoever shows a token wants to be its owner.
    if (identity == nullptr) return absl::UnauthenticatedError("the token is not in the server's access file");
    return identity;
  }
  for (const std::string& name : certificate_names_) {
    identity = list->FindCertificate(name);
    if (identity != nullptr) return identity;
  }
  identity = list->anonymous();
  if (identity != nullptr) return identity;
  return absl::UnauthenticatedError(
      certificate_names_.empty() ? "there is no token, want 'authorization: Bearer TOKEN'"
                                 : "there is no token, and the client certificate is not in the server's access file");
}

std::string Caller::name() const {
  if (control_ == nullptr) return "";
  const absl::StatusOr<std::shared_ptr<const Identity>> identity = Identify();
  return identity.ok() ? (*identity)->name : "";
}

absl::Status Caller::CheckSome(Role role) const {
  if (control_ == nullptr) return absl::OkStatus();
  const absl::StatusOr<std::shared_ptr<const Identity>> identity = Identify();
  if (!identity.ok()) return identity.status();
  if ((*identity)->Has(role)) return absl::OkStatus();
  return Missing(**identity, role, "any layer");
}

absl::Status Caller::Check(Role role, absl::string_view layer) const {
  if (control_ == nullptr) return absl::OkStatus();
  const absl::StatusOr<std::shared_ptr<const Identity>> identity = Identify();
  if (!identity.ok()) return identity.status();
  if ((*identity)->Allows(role, layer)) return absl::OkStatus();
  return Missing(**identity, role, absl::StrCat("layer ", base::Quoted(layer)));
}

absl::Status Caller::CheckPrefix(Role role, absl::string_view prefix) const {
  if (control_ == nullptr) return absl::OkStatus();
  const absl::StatusOr<std::shared_ptr<const Identity>> identity = Identify();
  if (!identity.ok()) return identity.status();
  if ((*identity)->AllowsPrefix(role, prefix)) return absl::OkStatus();
  return Missing(**identity, role,
                 prefix.empty() ? "all layers" : absl::StrCat("all layers that start with ", base::Quoted(prefix)));
}

absl::Duration Caller::TakeCall() const {
  if (control_ == nullptr) return absl::ZeroDuration();
  const absl::StatusOr<std::shared_ptr<const Identity>> identity = Identify();
  if (!identity.ok() || (*identity)->limiter == nullptr) return absl::ZeroDuration();
  return (*identity)->limiter->Take();
}

}  // namespace normd::access
