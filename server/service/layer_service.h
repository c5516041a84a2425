#ifndef NORMD_SERVER_SERVICE_LAYER_SERVICE_H_
#define NORMD_SERVER_SERVICE_LAYER_SERVICE_H_

#include "normd/v1/layer_service.grpc.pb.h"
#include "server/registry/layer_registry.h"
#include "server/service/unary_call.h"
#include "server/service/watch_stream.h"

namespace normd::service {

// normd.v1.LayerService over a registry. Every unary call is short and runs in the thread that
// received it.
class LayerServiceImpl final : public v1::LayerService::CallbackService {
 public:
  // Both outlive the service.
  LayerServiceImpl(registry::LayerRegistry* registry, CallObserver* observer)
      : registry_(registry), observer_(observer) {}

  grpc::ServerUnaryReactor* CreateLayer(grpc::CallbackServerContext* context, const v1::CreateLayerRequest* request,
                                        v1::CreateLayerResponse* response) override;
  grpc::ServerUnaryReactor* GetLayer(grpc::CallbackServerContext* context, const v1::GetLayerRequest* request,
                                     v1::GetLayerResponse* response) override;
  grpc::ServerUnaryReactor* ListLayers(grpc::CallbackServerContext* context, const v1::ListLayersRequest* request,
                                       v1::ListLayersResponse* response) override;
  grpc::ServerUnaryReactor* UpdateLayer(grpc::CallbackServerContext* context, const v1::UpdateLayerRequest* request,
                                        v1::UpdateLayerResponse* response) override;
  grpc::ServerUnaryReactor* DeleteLayer(grpc::CallbackServerContext* context, const v1::DeleteLayerRequest* request,
                                        v1::DeleteLayerResponse* response) override;
  grpc::ServerUnaryReactor* ResetStatistics(grpc::CallbackServerContext* context,
                                            const v1::ResetStatisticsRequest* request,
                                            v1::ResetStatisticsResponse* response) override;
  grpc::ServerUnaryReactor* SetState(grpc::CallbackServerContext* context, const v1::SetStateRequest* request,
                                     v1::SetStateResponse* response) override;
  grpc::ServerUnaryReactor* ForkLayer(grpc::CallbackServerContext* context, const v1::ForkLayerRequest* request,
                                      v1::ForkLayerResponse* response) override;
  grpc::ServerWriteReactor<v1::WatchLayersResponse>* WatchLayers(grpc::CallbackServerContext* context,
                                                                 const v1::WatchLayersRequest* request) override;

  // Ends the streams of those who watch, now and later.
  void StopStreams() { watch_streams_.Stop(); }

  // Open WatchLayers streams.
  int64_t num_watchers() const { return watch_streams_.size(); }

 private:
  registry::LayerRegistry* const registry_;
  CallObserver* const observer_;
  WatchStreams watch_streams_;
};

}  // namespace normd::service

#endif  // NORMD_SERVER_SERVICE_LAYER_SERVICE_H_
