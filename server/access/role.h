#ifndef NORMD_SERVER_ACCESS_ROLE_H_
#define NORMD_SERVER_ACCESS_ROLE_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace normd::access {

// What somebody may do with a layer. Each role may do what those before it may.
enum class Role {
  // Read it, and normalize with what it has learned.
  kRead,
  // Also change what it has learned, create and fork it.
  kTrain,
  // Also change its settings, delete it, snapshot and restore it.
  kAdmin,
};

// "read".
absl::string_view RoleName(Role role);

// A role for some layers. A plain value.
class Grant {
 public:
  // "train:rl.*": all layers whose name starts with "rl."; "read:rl.obs": one layer; "admin:*": all. INVALID_ARGUMENT:
  // it is none of these.
  static absl::StatusOr<Grant> Parse(absl::string_view text);

  Role role() const { return role_; }
  bool Covers(absl::string_view layer) const;
  // Every layer whose name starts with `prefix`, there or yet to come.
  bool CoversPrefix(absl::string_view prefix) const;

 private:
  Grant(Role role, absl::string_view name, bool is_prefix) : role_(role), name_(name), is_prefix_(is_prefix) {}

  Role role_;
  // Of the layer, or what it starts with.
  std::string name_;
  bool is_prefix_;
};

}  // namespace normd::access

#endif  // NORMD_SERVER_ACCESS_ROLE_H_
