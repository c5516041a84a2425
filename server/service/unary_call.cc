#include "server/service/unary_call.h"

#include <chrono>

#include "absl/strings/str_cat.h"
#include "server/service/status_conversion.h"

namespace normd::service {

absl::Status CheckAlive(const grpc::CallbackServerContext& context, absl::string_view method) {
  // The deadline first: gRPC also marks a call cancelled when it has passed.
  if (context.deadline() <= std::chrono::system_clock::now()) {
    return absl::DeadlineExceededError(absl::StrCat(method, ": the deadline passed before the call was carried out"));
  }
  if (context.IsCancelled()) return absl::CancelledError(absl::StrCat(method, ": the call was cancelled"));
  return absl::OkStatus();
}

UnaryCall::UnaryCall(grpc::CallbackServerContext* context, absl::string_view method, int64_t request_bytes,
                     CallObserver* observer)
    : context_(context),
      reactor_(context->DefaultReactor()),
      method_(method),
      request_bytes_(request_bytes),
      observer_(observer),
      start_(std::chrono::steady_clock::now()) {
  observer_->Began();
}

void UnaryCall::Finish(const absl::Status& status, int64_t response_bytes) const {
  observer_->OnCall(CallRecord{.method = method_,
                               .layer = layer_,
                               .request_id = request_id_,
                               .context = *context_,
                               .request_bytes = request_bytes_,
                               .response_bytes = response_bytes,
                               .status = status,
                               .duration = absl::FromChrono(std::chrono::steady_clock::now() - start_)});
  observer_->Ended();
  reactor_->Finish(ToGrpcStatus(status));
}

}  // namespace normd::service
