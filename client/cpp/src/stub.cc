#include "client/cpp/src/stub.h"

#include <grpcpp/impl/client_unary_call.h>
#include <grpcpp/support/client_callback.h>

#include <future>
#include <memory>
#include <optional>
#include <utility>

#include "client/cpp/src/handover.h"
#include "client/cpp/src/health_codec.h"

namespace normd::internal {
namespace {

// As the generated stubs make theirs; only the messages are bytes.
grpc::internal::RpcMethod Unary(const char* name, const std::shared_ptr<grpc::Channel>& channel) {
  return {name, nullptr, grpc::internal::RpcMethod::NORMAL_RPC, channel};
}

}  // namespace

Stub::Stub(std::shared_ptr<grpc::Channel> channel)
    : channel_(std::move(channel)),
      layers_(v1::LayerService::NewStub(channel_)),
      normalization_(v1::NormalizationService::NewStub(channel_)),
      snapshots_(v1::SnapshotService::NewStub(channel_)),
      admin_(v1::AdminService::NewStub(channel_)),
      generic_(channel_),
      tensor_methods_{Unary("/normd.v1.NormalizationService/TrainStep", channel_),
                      Unary("/normd.v1.NormalizationService/Infer", channel_),
                      Unary("/normd.v1.NormalizationService/Denormalize", channel_),
                      Unary("/normd.v1.NormalizationService/Backward", channel_)} {}

grpc::Status Stub::Call(grpc::ClientContext* context, const TensorRequest& request, grpc::ByteBuffer* response) {
  // What is sent is let go of on gRPC's threads.
  handover::Give();
  return grpc::internal::BlockingUnaryCall(channel_.get(), Find(request.method), context, request.message, response);
}

void Stub::CallAsync(grpc::ClientContext* context, const TensorRequest* request, grpc::ByteBuffer* response,
                     Done done) {
  grpc::internal::CallbackUnaryCall(channel_.get(), Find(request->method), context, &request->message, response,
                                    std::move(done));
}

grpc::Status Stub::Call(grpc::ClientContext* context, const HealthRequest& request, HealthResponse* response) {
  const grpc::ByteBuffer query = EncodeHealthRequest(request.service);
  grpc::ByteBuffer answer;
  // Shared, since the callback is still inside it when this thread wakes up.
  const auto finished = std::make_shared<std::promise<grpc::Status>>();
  handover::Give();
  generic_.UnaryCall(context, "/grpc.health.v1.Health/Check", grpc::StubOptions(), &query, &answer,
                     [finished](grpc::Status status) {
                       handover::Take();
                       finished->set_value(std::move(status));
                     });
  grpc::Status status = finished->get_future().get();
  if (!status.ok()) return status;
  const std::optional<int> decoded = DecodeHealthResponse(answer);
  if (!decoded.has_value()) return {grpc::StatusCode::INTERNAL, "the server's health answer cannot be read"};
  response->status = *decoded;
  return status;
}

}  // namespace normd::internal
