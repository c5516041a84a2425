#include "server/service/normalization_service.h"

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "server/kernels/parallelism.h"
#include "server/layer/layer_error.h"
#include "server/layer/layer_name.h"
#include "server/registry/inference.h"
#include "server/registry/training.h"
#include "server/service/optimizer_conversion.h"
#include "server/service/tensor_conversion.h"

namespace normd::service {
namespace {

int64_t DataBytes(const v1::Tensor& tensor) { return static_cast<int64_t>(tensor.data().size()); }

template <typename Response>
absl::Status Answer(absl::StatusOr<registry::InferenceResult> result, Response* response) {
  if (!result.ok()) return result.status();
  response->set_version(result->version);
  response->set_content_hash(std::move(result->content_hash));
  return absl::OkStatus();
}

absl::StatusOr<registry::BackwardInput::Mode> ToBackwardMode(absl::string_view layer, v1::BackwardMode mode) {
  switch (mode) {
    case v1::BACKWARD_MODE_UNSPECIFIED:
    case v1::BACKWARD_MODE_TRAINING:
      return registry::BackwardInput::Mode::kTraining;
    case v1::BACKWARD_MODE_FROZEN:
      return registry::BackwardInput::Mode::kFrozen;
    default:
      return absl::InvalidArgumentError(absl::StrCat(layer::LayerPrefix(layer), "mode is ", static_cast<int>(mode),
                                                     ": want BACKWARD_MODE_TRAINING or BACKWARD_MODE_FROZEN"));
  }
}

}  // namespace

template <typename Request, typename Response, typename Compute>
grpc::ServerUnaryReactor* NormalizationServiceImpl::Handle(grpc::CallbackServerContext* context,
                                                           absl::string_view method, const Request* request,
                                                           Response* response, int64_t bytes, Compute compute) {
  const UnaryCall call(context, method, request->layer(), request, response, observer_);
  const auto handler = [request, compute = std::move(compute), call](int threads) -> absl::Status {
    if (absl::Status status = layer::ValidateName(request->layer()); !status.ok()) return status;
    registry::CallControl control;
    control.threads = threads;
    control.check_alive = [call] { return call.CheckAlive(); };
    return compute(control);
  };
  if (kernels::ThreadsFor(bytes, cores_) == 1) {
    const kernels::BusyCores::Lease lease(&busy_inline_);
    call.Run([&] { return handler(1); });
    return call.reactor();
  }
  // How many cores are idle is known only when its turn comes.
  base::ComputeThread::Job job = [this, call, handler, bytes] {
    call.Run([&] { return handler(kernels::ThreadsFor(bytes, cores_, busy_inline_.count())); });
  };
  if (!compute_thread_->Submit(job)) {
    call.Finish(absl::ResourceExhaustedError("too many calls with large tensors wait for the compute thread"));
  }
  return call.reactor();
}

grpc::ServerUnaryReactor* NormalizationServiceImpl::TrainStep(grpc::CallbackServerContext* context,
                                                              const v1::TrainStepRequest* request,
                                                              v1::TrainStepResponse* response) {
  const int64_t bytes = DataBytes(request->x()) * (request->omit_output() ? 1 : 2);
  return Handle(
      context, "TrainStep", request, response, bytes,
      [this, request, response](const registry::CallControl& control) -> absl::Status {
        absl::StatusOr<layer::TensorView> x = ToTensorView(request->layer(), "x", request->has_x(), request->x());
        if (!x.ok()) return x.status();
        registry::TrainStepInput input;
        input.layer = request->layer();
        input.x = *x;
        input.gamma.assign(request->gamma().begin(), request->gamma().end());
        input.beta.assign(request->beta().begin(), request->beta().end());
        input.skip_update = request->skip_update();
        input.request_id = request->request_id();
        char* y = request->omit_output() ? nullptr : AllocateLike(*x, response->mutable_y());

        absl::StatusOr<registry::TrainStepResult> result = registry::TrainStep(*registry_, input, control, y);
        if (!result.ok()) return result.status();

        response->mutable_batch_mean()->Assign(result->batch_mean.begin(), result->batch_mean.end());
        response->mutable_batch_var()->Assign(result->batch_var.begin(), result->batch_var.end());
        response->mutable_skipped_channels()->Assign(result->skipped_channels.begin(), result->skipped_channels.end());
        response->set_version(result->version);
        response->set_content_hash(std::move(result->content_hash));
        response->set_num_batches_tracked(result->num_batches_tracked);
        response->set_replayed(result->replayed);
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* NormalizationServiceImpl::Infer(grpc::CallbackServerContext* context,
                                                          const v1::InferRequest* request,
                                                          v1::InferResponse* response) {
  return Handle(
      context, "Infer", request, response, 2 * DataBytes(request->x()),
      [this, request, response](const registry::CallControl& control) -> absl::Status {
        absl::StatusOr<layer::TensorView> x = ToTensorView(request->layer(), "x", request->has_x(), request->x());
        if (!x.ok()) return x.status();
        char* y = AllocateLike(*x, response->mutable_y());
        return Answer(registry::Infer(*registry_, request->layer(), *x, request->version(), control, y), response);
      });
}

grpc::ServerUnaryReactor* NormalizationServiceImpl::Denormalize(grpc::CallbackServerContext* context,
                                                                const v1::DenormalizeRequest* request,
                                                                v1::DenormalizeResponse* response) {
  return Handle(context, "Denormalize", request, response, 2 * DataBytes(request->y()),
                [this, request, response](const registry::CallControl& control) -> absl::Status {
                  absl::StatusOr<layer::TensorView> y =
                      ToTensorView(request->layer(), "y", request->has_y(), request->y());
                  if (!y.ok()) return y.status();
                  char* x = AllocateLike(*y, response->mutable_x());
                  return Answer(registry::Denormalize(*registry_, request->layer(), *y, request->version(), control, x),
                                response);
                });
}

grpc::ServerUnaryReactor* NormalizationServiceImpl::Backward(grpc::CallbackServerContext* context,
                                                             const v1::BackwardRequest* request,
                                                             v1::BackwardResponse* response) {
  const int64_t bytes = DataBytes(request->x()) * (request->omit_dx() ? 1 : 2) + DataBytes(request->dy());
  return Handle(
      context, "Backward", request, response, bytes,
      [this, request, response](const registry::CallControl& control) -> absl::Status {
        absl::StatusOr<layer::TensorView> x = ToTensorView(request->layer(), "x", request->has_x(), request->x());
        if (!x.ok()) return x.status();
        absl::StatusOr<layer::TensorView> dy = ToTensorView(request->layer(), "dy", request->has_dy(), request->dy());
        if (!dy.ok()) return dy.status();
        absl::StatusOr<registry::BackwardInput::Mode> mode = ToBackwardMode(request->layer(), request->mode());
        if (!mode.ok()) return mode.status();
        registry::BackwardInput input;
        input.layer = request->layer();
        input.x = *x;
        input.dy = *dy;
        input.mode = *mode;
        input.batch_mean.assign(request->batch_mean().begin(), request->batch_mean().end());
        input.batch_var.assign(request->batch_var().begin(), request->batch_var().end());
        input.gamma.assign(request->gamma().begin(), request->gamma().end());
        input.optimizer = ToOptimizerStep(*request);
        input.version = request->version();
        input.request_id = request->request_id();
        char* dx = request->omit_dx() ? nullptr : AllocateLike(*x, response->mutable_dx());

        absl::StatusOr<registry::BackwardResult> result = registry::Backward(*registry_, input, control, dx);
        if (!result.ok()) return result.status();

        response->mutable_dgamma()->Assign(result->dgamma.begin(), result->dgamma.end());
        response->mutable_dbeta()->Assign(result->dbeta.begin(), result->dbeta.end());
        response->mutable_gamma()->Assign(result->gamma.begin(), result->gamma.end());
        response->mutable_beta()->Assign(result->beta.begin(), result->beta.end());
        response->set_version(result->version);
        response->set_content_hash(std::move(result->content_hash));
        response->set_replayed(result->replayed);
        return absl::OkStatus();
      });
}

}  // namespace normd::service
