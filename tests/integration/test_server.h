#ifndef NORMD_TESTS_INTEGRATION_TEST_SERVER_H_
#define NORMD_TESTS_INTEGRATION_TEST_SERVER_H_

#include <gmock/gmock.h>
#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/status.h>
#include <spdlog/common.h>

#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "normd/v1/layer_service.grpc.pb.h"
#include "normd/v1/normalization_service.grpc.pb.h"
#include "server/app/server.h"

// A real server in this process, and what is needed to talk to it with the generated stubs.
namespace normd::tests {

// Matches a grpc::Status with this code whose message `message` (a matcher, or text that must be equal) matches.
MATCHER_P2(GrpcStatusIs, code, message, "") {
  *result_listener << "which has code " << arg.error_code() << " and message \"" << arg.error_message() << '"';
  return arg.error_code() == code &&
         ::testing::SafeMatcherCast<const std::string&>(message).Matches(arg.error_message());
}

MATCHER(GrpcIsOk, "") {
  *result_listener << "which has code " << arg.error_code() << " and message \"" << arg.error_message() << '"';
  return arg.ok();
}

// A directory of its own under the system's temporary directory, removed with everything in it at the end.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  std::string Path(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// Loopback, a free port.
app::ServerOptions TestOptions();

// A server that runs while this lives. Ends the test program if it does not start.
class TestServer {
 public:
  explicit TestServer(const app::ServerOptions& options = TestOptions(), spdlog::sink_ptr log_sink = nullptr);

  app::Server& server() { return *server_; }
  const std::string& address() const { return server_->addresses().front(); }
  v1::LayerService::Stub& layers() { return *layers_; }
  v1::NormalizationService::Stub& normalization() { return *normalization_; }
  const std::shared_ptr<grpc::Channel>& channel() { return channel_; }

  // Creates a layer and returns it; fails the test if that does not work.
  v1::Layer Create(const std::string& name, int64_t num_channels, const std::string& preset = "");
  // The layer with its state.
  v1::Layer Get(const std::string& name);

 private:
  std::unique_ptr<app::Logger> logger_;
  std::unique_ptr<app::Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::LayerService::Stub> layers_;
  std::unique_ptr<v1::NormalizationService::Stub> normalization_;
};

// A channel of its own, without the client's limits on message sizes; without `credentials` not encrypted.
std::shared_ptr<grpc::Channel> NewChannel(const std::string& address,
                                          std::shared_ptr<grpc::ChannelCredentials> credentials = nullptr);

// Calls one method of a stub with a deadline far away: Call(stub, &Stub::Infer, request, &response).
template <typename Stub, typename Request, typename Response>
grpc::Status Call(Stub& stub, grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                  const Request& request, Response* response) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
  return (stub.*method)(&context, request, response);
}

inline v1::DataType DataTypeOf(float) { return v1::DATA_TYPE_FLOAT32; }
inline v1::DataType DataTypeOf(double) { return v1::DATA_TYPE_FLOAT64; }

template <typename T>
v1::Tensor MakeTensor(const std::vector<int64_t>& shape, const std::vector<T>& values,
                      v1::Layout layout = v1::LAYOUT_UNSPECIFIED) {
  v1::Tensor tensor;
  tensor.set_dtype(DataTypeOf(T{}));
  tensor.mutable_shape()->Assign(shape.begin(), shape.end());
  tensor.set_layout(layout);
  tensor.set_data(values.data(), values.size() * sizeof(T));
  return tensor;
}

template <typename T>
std::vector<T> Values(const v1::Tensor& tensor) {
  std::vector<T> values(tensor.data().size() / sizeof(T));
  std::memcpy(values.data(), tensor.data().data(), values.size() * sizeof(T));
  return values;
}

// Waits for what another thread or process will bring about soon.
void Await(const char* what, const std::function<bool()>& condition);

// `count` values that look random and are the same everywhere, around 3 with a spread of 2.
std::vector<double> SomeValues(int64_t count, uint32_t seed = 1);

}  // namespace normd::tests

#endif  // NORMD_TESTS_INTEGRATION_TEST_SERVER_H_
