#ifndef NORMD_SERVER_SERVICE_OPEN_INFERENCE_SERVICE_H_
#define NORMD_SERVER_SERVICE_OPEN_INFERENCE_SERVICE_H_

#include <grpcpp/support/byte_buffer.h>

#include <atomic>

#include "inference/open_inference_service.grpc.pb.h"
#include "server/registry/layer_registry.h"
#include "server/service/open_inference_regions.h"
#include "server/service/open_inference_statistics.h"
#include "server/service/tensor_stream.h"
#include "server/service/unary_call.h"

namespace normd::service {

// The methods that carry tensors, registered raw (see NormalizationServiceImpl).
template <typename Base>
using RawInference = ::inference::GRPCInferenceService::WithRawCallbackMethod_ModelInfer<
    ::inference::GRPCInferenceService::WithRawCallbackMethod_ModelStreamInfer<Base>>;
template <typename Base>
using ServerQueries = ::inference::GRPCInferenceService::WithCallbackMethod_ServerLive<
    ::inference::GRPCInferenceService::WithCallbackMethod_ServerReady<
        ::inference::GRPCInferenceService::WithCallbackMethod_ServerMetadata<
            ::inference::GRPCInferenceService::WithCallbackMethod_RepositoryIndex<Base>>>>;
template <typename Base>
using ModelQueries = ::inference::GRPCInferenceService::WithCallbackMethod_ModelReady<
    ::inference::GRPCInferenceService::WithCallbackMethod_ModelMetadata<
        ::inference::GRPCInferenceService::WithCallbackMethod_ModelConfig<
            ::inference::GRPCInferenceService::WithCallbackMethod_ModelStatistics<Base>>>>;
template <typename Base>
using SharedMemoryByName = ::inference::GRPCInferenceService::WithCallbackMethod_SystemSharedMemoryStatus<
    ::inference::GRPCInferenceService::WithCallbackMethod_SystemSharedMemoryRegister<
        ::inference::GRPCInferenceService::WithCallbackMethod_SystemSharedMemoryUnregister<Base>>>;

// inference.GRPCInferenceService over a registry: what proto/inference/open_inference_service.proto says. ModelInfer
// and ModelStreamInfer take the way of NormalizationService's calls.
class OpenInferenceService final
    : public RawInference<ServerQueries<ModelQueries<SharedMemoryByName<::inference::GRPCInferenceService::Service>>>> {
 public:
  using RawStream = grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>;

  // All outlive the service. `regions` is null if shared memory is off; `regions_by_name`, whether clients may register
  // regions here.
  OpenInferenceService(const registry::LayerRegistry* registry, shm::RegionRegistry* regions, bool regions_by_name,
                       wire::BufferPool* buffers, TensorExecutor* executor, CallObserver* observer)
      : registry_(registry),
        statistics_(registry, observer),
        regions_(regions_by_name ? regions : nullptr),
        context_{{registry, {buffers, regions, executor}}, executor, &statistics_},
        observer_(observer) {}

  // The server is no longer ready, and streams that wait for more requests end once what they have begun is answered.
  void Stop();

  grpc::ServerUnaryReactor* ServerLive(grpc::CallbackServerContext* context,
                                       const ::inference::ServerLiveRequest* request,
                                       ::inference::ServerLiveResponse* response) override;
  grpc::ServerUnaryReactor* ServerReady(grpc::CallbackServerContext* context,
                                        const ::inference::ServerReadyRequest* request,
                                        ::inference::ServerReadyResponse* response) override;
  grpc::ServerUnaryReactor* ModelReady(grpc::CallbackServerContext* context,
                                       const ::inference::ModelReadyRequest* request,
                                       ::inference::ModelReadyResponse* response) override;
  grpc::ServerUnaryReactor* ServerMetadata(grpc::CallbackServerContext* context,
                                           const ::inference::ServerMetadataRequest* request,
                                           ::inference::ServerMetadataResponse* response) override;
  grpc::ServerUnaryReactor* ModelMetadata(grpc::CallbackServerContext* context,
                                          const ::inference::ModelMetadataRequest* request,
                                          ::inference::ModelMetadataResponse* response) override;
  grpc::ServerUnaryReactor* ModelConfig(grpc::CallbackServerContext* context,
                                        const ::inference::ModelConfigRequest* request,
                                        ::inference::ModelConfigResponse* response) override;
  grpc::ServerUnaryReactor* ModelInfer(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                       grpc::ByteBuffer* response) override;
  RawStream* ModelStreamInfer(grpc::CallbackServerContext* context) override;
  grpc::ServerUnaryReactor* ModelStatistics(grpc::CallbackServerContext* context,
                                            const ::inference::ModelStatisticsRequest* request,
                                            ::inference::ModelStatisticsResponse* response) override;
  grpc::ServerUnaryReactor* RepositoryIndex(grpc::CallbackServerContext* context,
                                            const ::inference::RepositoryIndexRequest* request,
                                            ::inference::RepositoryIndexResponse* response) override;
  grpc::ServerUnaryReactor* SystemSharedMemoryStatus(grpc::CallbackServerContext* context,
                                                     const ::inference::SystemSharedMemoryStatusRequest* request,
                                                     ::inference::SystemSharedMemoryStatusResponse* response) override;
  grpc::ServerUnaryReactor* SystemSharedMemoryRegister(
      grpc::CallbackServerContext* context, const ::inference::SystemSharedMemoryRegisterRequest* request,
      ::inference::SystemSharedMemoryRegisterResponse* response) override;
  grpc::ServerUnaryReactor* SystemSharedMemoryUnregister(
      grpc::CallbackServerContext* context, const ::inference::SystemSharedMemoryUnregisterRequest* request,
      ::inference::SystemSharedMemoryUnregisterResponse* response) override;

 private:
  const registry::LayerRegistry* const registry_;
  OpenInferenceStatistics statistics_;
  OpenInferenceRegions regions_;
  const TensorStreamContext context_;
  CallObserver* const observer_;
  OpenStreams open_streams_;
  std::atomic<bool> stopping_ = false;
};

}  // namespace normd::service

#endif  // NORMD_SERVER_SERVICE_OPEN_INFERENCE_SERVICE_H_
