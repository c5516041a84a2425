#include "server/access/role.h"

#include <algorithm>
#include <optional>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace normd::access {
namespace {

constexpr Role kRoles[] = {Role::kRead, Role::kTrain, Role::kAdmin};

std::optional<Role> ParseRole(absl::string_view name) {
  for (const Role role : kRoles) {
    if (RoleName(role) == name) return role;
  }
  return std::nullopt;
}

// Of names of layers.
bool IsNameCharacter(char c) {
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' || c == '-';
}

}  // namespace

absl::string_view RoleName(Role role) {
  switch (role) {
    case Role::kRead:
      return "read";
    case Role::kTrain:
      return "train";
    case Role::kAdmin:
      return "admin";
  }
  return "";
}

absl::StatusOr<Grant> Grant::Parse(absl::string_view text) {
  const std::size_t colon = text.find(':');
  const std::optional<Role> role = ParseRole(text.substr(0, colon));
  absl::string_view name = colon == absl::string_view::npos ? "" : text.substr(colon + 1);
  const bool is_prefix = absl::ConsumeSuffix(&name, "*");
  const bool is_name = is_prefix || !name.empty();
  if (!role.has_value() || !is_name || !std::all_of(name.begin(), name.end(), IsNameCharacter)) {
    return absl::InvalidArgumentError(
        "want ROLE:LAYER or ROLE:PREFIX*, with read, train or admin, as in 'train:rl.*' or 'read:*'");
  }
  return Grant(*role, name, is_prefix);
}

bool Grant::Covers(absl::string_view layer) const {
  return is_prefix_ ? absl::StartsWith(layer, name_) : layer == name_;
}

bool Grant::CoversPrefix(absl::string_view prefix) const { return is_prefix_ && absl::StartsWith(prefix, name_); }

}  // namespace normd::access
