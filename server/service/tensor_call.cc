#include "server/service/tensor_call.h"

#include "server/layer/layer_error.h"

namespace normd::service {

absl::Status TensorCall::Run(const registry::CallControl& control) {
  registry::CallControl guarded = control;
  guarded.check_alive = [this, &control]() -> absl::Status {
    if (absl::Status status = control.CheckAlive(); !status.ok()) return status;
    return layer::ForLayer(layer(), CheckNotLost());
  };
  absl::Status status = Compute(guarded);
  if (!status.ok()) return status;
  // The result may have been written after the last look.
  return layer::ForLayer(layer(), CheckNotLost());
}

}  // namespace normd::service
