#ifndef NORMD_CLIENT_CPP_SRC_STUB_H_
#define NORMD_CLIENT_CPP_SRC_STUB_H_

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/impl/rpc_method.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/status.h>

#include <array>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>

#include "normd/v1/admin_service.grpc.pb.h"
#include "normd/v1/layer_service.grpc.pb.h"
#include "normd/v1/normalization_service.grpc.pb.h"
#include "normd/v1/snapshot_service.grpc.pb.h"

namespace normd::internal {

struct HealthRequest {
  std::string service;
};

struct HealthResponse {
  // grpc.health.v1.HealthCheckResponse.ServingStatus.
  int status = 0;
};

// The methods that carry tensors, as bytes that are encoded and decoded elsewhere.
enum class TensorMethod { kTrainStep, kInfer, kDenormalize, kBackward };

struct TensorRequest {
  TensorMethod method = TensorMethod::kInfer;
  std::string layer;
  grpc::ByteBuffer message;
};

// The stubs behind one name: the type of the request says which method is meant. Thread-safe.
class Stub {
 public:
  explicit Stub(std::shared_ptr<grpc::Channel> channel);

  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }
  // Of streams.
  v1::LayerService::Stub* layers() { return layers_.get(); }
  v1::SnapshotService::Stub* snapshots() { return snapshots_.get(); }
  // Of methods by name.
  grpc::GenericStub* generic() { return &generic_; }

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
  grpc::Status Call(grpc::ClientContext* context, const v1::ForkLayerRequest& request,
                    v1::ForkLayerResponse* response) {
    return layers_->ForkLayer(context, request, response);
  }
  grpc::Status Call(grpc::ClientContext* context, const v1::CreateSnapshotRequest& request,
                    v1::CreateSnapshotResponse* response) {
    return snapshots_->CreateSnapshot(context, request, response);
  }
  grpc::Status Call(grpc::ClientContext* context, const v1::ListSnapshotsRequest& request,
                    v1::ListSnapshotsResponse* response) {
    return snapshots_->ListSnapshots(context, request, response);
  }
  grpc::Status Call(grpc::ClientContext* context, const v1::RestoreSnapshotRequest& request,
                    v1::RestoreSnapshotResponse* response) {
    return snapshots_->RestoreSnapshot(context, request, response);
  }
  grpc::Status Call(grpc::ClientContext* context, const v1::DeleteSnapshotRequest& request,
                    v1::DeleteSnapshotResponse* response) {
    return snapshots_->DeleteSnapshot(context, request, response);
  }
  grpc::Status Call(grpc::ClientContext* context, const v1::GetStatisticsRequest& request,
                    v1::GetStatisticsResponse* response) {
    return admin_->GetStatistics(context, request, response);
  }
  grpc::Status Call(grpc::ClientContext* context, const v1::GetLogLevelRequest& request,
                    v1::GetLogLevelResponse* response) {
    return admin_->GetLogLevel(context, request, response);
  }
  grpc::Status Call(grpc::ClientContext* context, const v1::SetLogLevelRequest& request,
                    v1::SetLogLevelResponse* response) {
    return admin_->SetLogLevel(context, request, response);
  }
  grpc::Status Call(grpc::ClientContext* context, const v1::MergeMomentsRequest& request,
                    v1::MergeMomentsResponse* response) {
    return normalization_->MergeMoments(context, request, response);
  }
  grpc::Status Call(grpc::ClientContext* context, const TensorRequest& request, grpc::ByteBuffer* response);
  grpc::Status Call(grpc::ClientContext* context, const HealthRequest& request, HealthResponse* response);

  // One attempt; returns at once. `context`, `request` and `response` must live until `done` runs, on gRPC's thread.
  using Done = std::function<void(grpc::Status)>;
  void CallAsync(grpc::ClientContext* context, const TensorRequest* request, grpc::ByteBuffer* response, Done done);

 private:
  const grpc::internal::RpcMethod& Find(TensorMethod method) const {
    return tensor_methods_[static_cast<std::size_t>(method)];
  }

  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<v1::LayerService::Stub> layers_;
  const std::unique_ptr<v1::NormalizationService::Stub> normalization_;
  const std::unique_ptr<v1::SnapshotService::Stub> snapshots_;
  const std::unique_ptr<v1::AdminService::Stub> admin_;
  grpc::GenericStub generic_;
  // By TensorMethod.
  const std::array<grpc::internal::RpcMethod, 4> tensor_methods_;
};

}  // namespace normd::internal

#endif  // NORMD_CLIENT_CPP_SRC_STUB_H_
