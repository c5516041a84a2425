#include "server/app/health_check.h"

#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/impl/codegen/proto_utils.h>
#include <grpcpp/security/credentials.h>

#include <chrono>
#include <future>

#include "absl/strings/str_cat.h"
#include "google/protobuf/wrappers.pb.h"

namespace normd::app {

absl::Status CheckHealth(const std::string& address, absl::Duration timeout) {
  // The messages of grpc.health.v1 by their wire format, since its stubs are not packaged: HealthCheckRequest is one
  // string in field 1 (empty: the whole server), HealthCheckResponse one enum in field 1.
  using Request = google::protobuf::StringValue;
  using Response = google::protobuf::Int32Value;
  constexpr int kServing = 1;

  grpc::TemplatedGenericStub<Request, Response> stub(grpc::CreateChannel(address, grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + absl::ToChronoMilliseconds(timeout));
  const Request request;
  Response response;
  std::promise<grpc::Status> done;
  stub.UnaryCall(&context, "/grpc.health.v1.Health/Check", grpc::StubOptions(), &request, &response,
                 [&done](grpc::Status status) { done.set_value(std::move(status)); });
  const grpc::Status status = done.get_future().get();
  if (!status.ok()) {
    return absl::Status(static_cast<absl::StatusCode>(status.error_code()),
                        absl::StrCat(address, ": ", status.error_message()));
  }
  if (response.value() != kServing) return absl::UnavailableError(absl::StrCat(address, ": NOT_SERVING"));
  return absl::OkStatus();
}

}  // namespace normd::app
