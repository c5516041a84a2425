#include "server/service/tensor_call.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/layer/layer_error.h"
#include "server/layer/layer_name.h"

namespace normd::service {

absl::Status TensorCall::Admit() {
  const std::size_t bytes = message_.slices.size() + static_cast<std::size_t>(BufferBytes());
  reserved_ = context_.memory.buffers->Reserve(bytes);
  if (reserved_) return absl::OkStatus();
  return NoMemory(context_.memory, absl::StrCat(layer::LayerPrefix(layer()), "the call"), bytes);
}

absl::Status TensorCall::Run(const registry::CallControl& control) {
  if (absl::Status status = layer::ValidateName(layer()); !status.ok()) return status;
  if (absl::Status status = Load(control.threads); !status.ok()) return status;
  if (absl::Status status = ComputeGuarded(control); !status.ok()) return status;
  message_ = {};
  reserved_.Release();
  return layer::ForLayer(layer(), CheckResultNotLost());
}

absl::Status TensorCall::RunAgain(const registry::CallControl& control) {
  if (absl::Status status = ComputeGuarded(control); !status.ok()) return status;
  return layer::ForLayer(layer(), CheckResultNotLost());
}

absl::Status TensorCall::ComputeGuarded(const registry::CallControl& control) {
  registry::CallControl guarded = control;
  guarded.check_alive = [this, &control]() -> absl::Status {
    if (absl::Status status = control.CheckAlive(); !status.ok()) return status;
    return layer::ForLayer(layer(), CheckNotLost());
  };
  return Compute(guarded);
}

void TensorCall::WriteResult(wire::MessageWriter* writer) {
  writer->AppendFields(response());
  // y, x or dx of the responses.
  constexpr std::uint32_t kTensor = 1;
  if (std::optional<TensorOutput> output = TakeOutput()) std::move(*output).Write(kTensor, writer);
}

}  // namespace normd::service
