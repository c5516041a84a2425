#ifndef NORMD_SERVER_SERVICE_NORMALIZATION_SERVICE_H_
#define NORMD_SERVER_SERVICE_NORMALIZATION_SERVICE_H_

#include <cstdint>

#include "normd/v1/normalization_service.grpc.pb.h"
#include "server/base/compute_thread.h"
#include "server/kernels/parallelism.h"
#include "server/registry/call_control.h"
#include "server/registry/layer_registry.h"
#include "server/service/unary_call.h"

namespace normd::service {

// normd.v1.NormalizationService over a registry. Tensors for which one thread is enough are computed in the thread that
// received them; larger ones on the compute thread, which owns the only OpenMP team. RESOURCE_EXHAUSTED when too many
// wait for it.
class NormalizationServiceImpl final : public v1::NormalizationService::CallbackService {
 public:
  // All outlive the service. `cores` is what one call may use at most.
  NormalizationServiceImpl(const registry::LayerRegistry* registry, base::ComputeThread* compute_thread, int cores,
                           CallObserver* observer)
      : registry_(registry), compute_thread_(compute_thread), cores_(cores), observer_(observer) {}

  grpc::ServerUnaryReactor* TrainStep(grpc::CallbackServerContext* context, const v1::TrainStepRequest* request,
                                      v1::TrainStepResponse* response) override;
  grpc::ServerUnaryReactor* Infer(grpc::CallbackServerContext* context, const v1::InferRequest* request,
                                  v1::InferResponse* response) override;
  grpc::ServerUnaryReactor* Denormalize(grpc::CallbackServerContext* context, const v1::DenormalizeRequest* request,
                                        v1::DenormalizeResponse* response) override;
  grpc::ServerUnaryReactor* Backward(grpc::CallbackServerContext* context, const v1::BackwardRequest* request,
                                     v1::BackwardResponse* response) override;

 private:
  // Runs `compute`, (const CallControl&) -> absl::Status, in the thread that fits a call that touches `bytes` of
  // tensors.
  template <typename Request, typename Response, typename Compute>
  grpc::ServerUnaryReactor* Handle(grpc::CallbackServerContext* context, absl::string_view method,
                                   const Request* request, Response* response, int64_t bytes, Compute compute);

  const registry::LayerRegistry* const registry_;
  base::ComputeThread* const compute_thread_;
  const int cores_;
  // Cores that run small calls inline; the compute thread leaves them alone.
  kernels::BusyCores busy_inline_;
  CallObserver* const observer_;
};

}  // namespace normd::service

#endif  // NORMD_SERVER_SERVICE_NORMALIZATION_SERVICE_H_
