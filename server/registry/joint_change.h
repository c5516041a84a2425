#ifndef NORMD_SERVER_REGISTRY_JOINT_CHANGE_H_
#define NORMD_SERVER_REGISTRY_JOINT_CHANGE_H_

#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "server/registry/change_gate.h"
#include "server/registry/committer.h"

namespace normd::registry {

// How often a joint change is made again because another server was faster, until it fails with this: ABORTED.
inline constexpr int kMostConflicts = 200;
absl::Status TooManyConflicts();
// Whether a refusal may have its cause in what this server does not know of other servers yet.
bool MayBeBehind(const absl::Status& refusal);

// Runs `make` while no other change is under way and all before are stored; stores what it asks for in one transaction,
// all or nothing, and hands it to the layers. A conflict (store::IsConflict): another server has changed one. `stored`
// runs after that and before any other change is stored. REQUIRES: no lock of a layer is held, and the caller is not
// inside the gate. `gate` may be null for what concerns no layer that others may change meanwhile.
absl::Status ChangeTogether(
    ChangeGate* gate, Committer* committer,
    absl::FunctionRef<absl::Status(std::vector<Committer::Change>* changes)> make,
    absl::FunctionRef<void()> stored = [] {});

}  // namespace normd::registry

#endif  // NORMD_SERVER_REGISTRY_JOINT_CHANGE_H_
