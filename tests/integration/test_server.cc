#include "tests/integration/test_server.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <gtest/gtest.h>
#include <spdlog/sinks/null_sink.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <thread>
#include <utility>

namespace normd::tests {

TempDir::TempDir() {
  std::string pattern = (std::filesystem::temp_directory_path() / "normd-test-XXXXXX").string();
  path_ = mkdtemp(pattern.data()) != nullptr ? pattern : "";
}

TempDir::~TempDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

app::ServerOptions TestOptions() {
  app::ServerOptions options;
  options.listen = "127.0.0.1:0";
  return options;
}

TestServer::TestServer(const app::ServerOptions& options, spdlog::sink_ptr log_sink)
    : logger_(std::make_unique<app::Logger>(
          app::LogLevel::kDebug, app::LogFormat::kText,
          log_sink != nullptr ? std::move(log_sink) : std::make_shared<spdlog::sinks::null_sink_mt>())) {
  auto server = app::Server::Start(options, logger_.get());
  if (!server.ok()) {
    std::fprintf(stderr, "the test's server does not start: %s\n", server.status().ToString().c_str());
    std::abort();
  }
  server_ = *std::move(server);
  channel_ = NewChannel(address());
  layers_ = v1::LayerService::NewStub(channel_);
  normalization_ = v1::NormalizationService::NewStub(channel_);
}

v1::Layer TestServer::Create(const std::string& name, int64_t num_channels, const std::string& preset) {
  v1::CreateLayerRequest request;
  request.set_name(name);
  request.set_preset(preset);
  request.mutable_config()->set_num_channels(num_channels);
  v1::CreateLayerResponse response;
  EXPECT_THAT(Call(*layers_, &v1::LayerService::Stub::CreateLayer, request, &response), GrpcIsOk());
  return response.layer();
}

v1::Layer TestServer::Get(const std::string& name) {
  v1::GetLayerRequest request;
  request.set_name(name);
  request.set_view(v1::LAYER_VIEW_STATE);
  v1::GetLayerResponse response;
  EXPECT_THAT(Call(*layers_, &v1::LayerService::Stub::GetLayer, request, &response), GrpcIsOk());
  return response.layer();
}

std::shared_ptr<grpc::Channel> NewChannel(const std::string& address,
                                          std::shared_ptr<grpc::ChannelCredentials> credentials) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  // Without it channels to one address share a connection, also to a server that is gone.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  if (credentials == nullptr) credentials = grpc::InsecureChannelCredentials();
  return grpc::CreateCustomChannel(address, credentials, arguments);
}

void Await(const char* what, const std::function<bool()>& condition) {
  const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!condition()) {
    ASSERT_LT(std::chrono::steady_clock::now(), give_up) << "no " << what;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

std::vector<double> SomeValues(int64_t count, uint32_t seed) {
  std::vector<double> values(static_cast<std::size_t>(count));
  uint32_t state = seed;
  for (double& value : values) {
    state = state * 1664525U + 1013904223U;
    value = 1.0 + 4.0 * static_cast<double>(state >> 8) / static_cast<double>(1 << 24);
  }
  return values;
}

}  // namespace normd::tests
