#include "client/cpp/src/stub.h"

#include <future>
#include <memory>
#include <optional>
#include <utility>

#include "client/cpp/src/handover.h"
#include "client/cpp/src/health_codec.h"

namespace normd::internal {

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
