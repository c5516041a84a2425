#include "server/registry/joint_change.h"

#include <optional>

#include "server/layer/layer_error.h"
#include "server/registry/layer_entry.h"

namespace normd::registry {

absl::Status TooManyConflicts() {
  return absl::AbortedError(
      "nothing has changed: other servers change the layers all the time, so that they cannot be "
      "changed together; try again");
}

bool MayBeBehind(const absl::Status& refusal) {
  switch (refusal.code()) {
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kAborted:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kResourceExhausted:
      return true;
    default:
      return false;
  }
}

absl::Status ChangeTogether(ChangeGate* gate, Committer* committer,
                            absl::FunctionRef<absl::Status(std::vector<Committer::Change>*)> make,
                            absl::FunctionRef<void()> stored) {
  std::optional<ChangeGate::Alone> alone;
  if (gate != nullptr) alone.emplace(gate);
  return committer->UseStore([&](store::StateStore*) -> absl::Status {
    std::vector<Committer::Change> changes;
    if (absl::Status status = make(&changes); !status.ok()) return status;
    std::vector<store::Update> updates;
    updates.reserve(changes.size());
    for (const Committer::Change& change : changes) updates.push_back(change.update);
    absl::Status status = updates.empty() ? absl::OkStatus() : committer->Write(updates);
    if (store::IsConflict(status)) return status;
    if (!status.ok()) return store::WriteFailure(status);
    for (const Committer::Change& change : changes) {
      if (change.entry != nullptr) change.entry->Adopt(change.update);
    }
    stored();
    return absl::OkStatus();
  });
}

}  // namespace normd::registry
