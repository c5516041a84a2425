#include "client/cpp/src/shared_call.h"

#include <cstring>
#include <memory>
#include <optional>
#include <utility>

namespace normd::internal {
namespace {

// Calls f(place) for each place that there is.
template <typename F>
void ForEachPlace(const TensorCall& call, F&& f) {
  for (const TensorCall::Input& input : call.inputs) {
    if (input.place.has_value()) f(*input.place);
  }
  if (call.output.has_value()) f(*call.output);
}

// Whether the server has answered, so that it is through with the call. Other codes may come from this side of the
// wire.
bool IsAnswer(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kCancelled:
    case absl::StatusCode::kUnknown:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kUnavailable:
      return false;
    default:
      return true;
  }
}

}  // namespace

void Place(SharedMemory* shared_memory, absl::Duration wait, TensorCall* call) {
  for (TensorCall::Input& input : call->inputs) {
    TensorView& tensor = input.tensor;
    if (!shared_memory->Wants(tensor.data.size())) continue;
    input.place = shared_memory->Find(tensor.data);
    if (!input.place.has_value()) {
      const std::shared_ptr<char> memory = shared_memory->Acquire(tensor.data.size(), wait);
      if (memory == nullptr) continue;
      std::memcpy(memory.get(), tensor.data.data(), tensor.data.size());
      tensor.data = {memory.get(), tensor.data.size()};
      input.place = shared_memory->Find(tensor.data);
      tensor.owner = memory;
    } else if (tensor.owner == nullptr) {
      tensor.owner = input.place->memory;
    }
  }
  if (!shared_memory->Wants(call->output_bytes)) return;
  if (!call->into.empty()) call->output = shared_memory->Find(call->into);
  for (const TensorCall::Input& input : call->inputs) {
    if (!call->output.has_value() || !input.place.has_value()) continue;
    if (input.place->memory == call->output->memory) call->output.reset();
  }
  if (call->output.has_value()) return;
  const std::shared_ptr<char> memory = shared_memory->Acquire(call->output_bytes, wait);
  if (memory != nullptr) call->output = shared_memory->Find({memory.get(), call->output_bytes});
}

bool Settle(SharedMemory* shared_memory, const absl::Status& status, TensorCall* call) {
  bool any = false;
  bool current = true;
  bool intact = true;
  ForEachPlace(*call, [&](const SharedMemory::Place& place) {
    any = true;
    current = current && shared_memory->IsCurrent(place);
    intact = intact && shared_memory->IsIntact(place);
  });
  if (status.ok() || !any) return false;
  const bool lost = status.code() == absl::StatusCode::kDataLoss;
  if (lost || !IsAnswer(status.code())) {
    ForEachPlace(*call, [&](const SharedMemory::Place& place) { shared_memory->Retire(place); });
  }
  if (status.code() != absl::StatusCode::kNotFound && !lost && current) return false;
  if (!intact || status.code() == absl::StatusCode::kDeadlineExceeded) return false;
  for (TensorCall::Input& input : call->inputs) input.place.reset();
  call->output.reset();
  return true;
}

}  // namespace normd::internal
