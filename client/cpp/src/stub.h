#ifndef NORMD_CLIENT_CPP_SRC_STUB_H_
#define NORMD_CLIENT_CPP_SRC_STUB_H_

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/support/status.h>

#include <functional>
#include <memory>
#include <string>

#include "normd/v1/layer_service.grpc.pb.h"
#include "normd/v1/normalization_service.grpc.pb.h"

namespace normd::internal {

struct HealthRequest {
  std::string service;
};

struct HealthResponse {
  // grpc.health.v1.HealthCheckResponse.ServingStatus.
  int status = 0;
};

// The generated stubs behind one name: the type of the request says which method is meant. Thread-safe.
class Stub {
 public:
  explicit Stub(const std::shared_ptr<grpc::Channel>& channel)
      : layers_(v1::LayerService::NewStub(channel)),
        normalization_(v1::NormalizationService::NewStub(channel)),
        generic_(channel) {}

  // One attempt; blocks.
  grpc::Status Call(grpc::ClientContext* context, const v1::CreateLayerRequest& request,
                    v1::CreateLayerResponse* response) {
    return layers_->CreateLayer(context, request, response);
  }
  grpc::Status Call(grpc::ClientContext* context, const v1::GetLayerRequest& request, v1::GetLayerResponse* response) {
    return layers_->GetLayer(context, request, response);
  }
  grpc::Status Call(grpc::ClientContext* context, const v1::ListLayersRequest& request,
                    v1::ListLayersResponse* response) {
    return layers_->ListLayers(context, request, response);
  }
  grpc::Status Call(grpc::ClientContext* context, const v1::UpdateLayerRequest& request,
                    v1::UpdateLayerResponse* response) {
    return layers_->UpdateLayer(context, request, response);
  }
  grpc::Status Call(grpc::ClientContext* context, const v1::DeleteLayerRequest& request,
                    v1::DeleteLayerResponse* response) {
    return layers_->DeleteLayer(context, request, response);
  }
  grpc::Status Call(grpc::ClientContext* context, const v1::ResetStatisticsRequest& request,
                    v1::ResetStatisticsResponse* response) {
    return layers_->ResetStatistics(context, request, response);
  }
  grpc::Status Call(grpc::ClientContext* context, const v1::SetStateRequest& request, v1::SetStateResponse* response) {
    return layers_->SetState(context, request, response);
  }
  grpc::Status Call(grpc::ClientContext* context, const v1::TrainStepRequest& request,
                    v1::TrainStepResponse* response) {
    return normalization_->TrainStep(context, request, response);
  }
  grpc::Status Call(grpc::ClientContext* context, const v1::InferRequest& request, v1::InferResponse* response) {
    return normalization_->Infer(context, request, response);
  }
  grpc::Status Call(grpc::ClientContext* context, const v1::DenormalizeRequest& request,
                    v1::DenormalizeResponse* response) {
    return normalization_->Denormalize(context, request, response);
  }
  grpc::Status Call(grpc::ClientContext* context, const v1::BackwardRequest& request, v1::BackwardResponse* response) {
    return normalization_->Backward(context, request, response);
  }
  grpc::Status Call(grpc::ClientContext* context, const HealthRequest& request, HealthResponse* response);

  // One attempt; returns at once. `context`, `request` and `response` must live until `done` runs, on gRPC's thread.
  using Done = std::function<void(grpc::Status)>;
  void CallAsync(grpc::ClientContext* context, const v1::TrainStepRequest* request, v1::TrainStepResponse* response,
                 Done done) {
    normalization_->async()->TrainStep(context, request, response, std::move(done));
  }
  void CallAsync(grpc::ClientContext* context, const v1::InferRequest* request, v1::InferResponse* response,
                 Done done) {
    normalization_->async()->Infer(context, request, response, std::move(done));
  }
  void CallAsync(grpc::ClientContext* context, const v1::DenormalizeRequest* request, v1::DenormalizeResponse* response,
                 Done done) {
    normalization_->async()->Denormalize(context, request, response, std::move(done));
  }
  void CallAsync(grpc::ClientContext* context, const v1::BackwardRequest* request, v1::BackwardResponse* response,
                 Done done) {
    normalization_->async()->Backward(context, request, response, std::move(done));
  }

 private:
  std::unique_ptr<v1::LayerService::Stub> layers_;
  std::unique_ptr<v1::NormalizationService::Stub> normalization_;
  grpc::GenericStub generic_;
};

}  // namespace normd::internal

#endif  // NORMD_CLIENT_CPP_SRC_STUB_H_
