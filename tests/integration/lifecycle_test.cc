// The life of a server and of the calls in it: sockets, health, reflection, deadlines, cancellation, draining.

#include <gmock/gmock.h>
#include <google/protobuf/empty.pb.h>
#include <google/protobuf/unknown_field_set.h>
#include <google/protobuf/wrappers.pb.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/impl/codegen/proto_utils.h>
#include <gtest/gtest.h>
#include <spdlog/sinks/sink.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <functional>
#include <future>
#include <mutex>
#include <thread>

#include "server/app/health_check.h"
#include "tests/integration/held_server.h"
#include "tests/integration/test_server.h"
#include "tests/status_matchers.h"

namespace normd::tests {
namespace {

using ::testing::AnyOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsSupersetOf;

using Normalization = v1::NormalizationService::Stub;

constexpr absl::Duration kLong = absl::Seconds(60);

TEST(Compute, ACancelledTrainStepChangesNothing) {
  HeldServer held;
  TestServer& server = held.server();
  AsyncTrainStep first(server.normalization(), "hold", LargeX());
  held.sink().AwaitHeld();
  AsyncTrainStep second(server.normalization(), "bn", LargeX());
  Await("waiting call", [&] { return server.server().waiting_calls() == 1; });

  second.Cancel();
  EXPECT_THAT(second.Wait(), GrpcStatusIs(grpc::CANCELLED, ::testing::_));
  // The server reads a connection in order, so that it has seen the cancellation before these.
  for (int i = 0; i < 50; ++i) EXPECT_EQ(server.Get("bn").version(), 1);

  held.sink().Release();
  EXPECT_THAT(first.Wait(), GrpcIsOk());
  Await("end of the cancelled call", [&] { return held.sink().Contains("layer=bn code=CANCELLED"); });
  EXPECT_EQ(server.Get("bn").version(), 1);
  EXPECT_EQ(server.Get("bn").state().num_batches_tracked(), 0);
}

TEST(Compute, ATrainStepOutOfTimeChangesNothing) {
  HeldServer held;
  TestServer& server = held.server();
  AsyncTrainStep first(server.normalization(), "hold", LargeX());
  held.sink().AwaitHeld();
  AsyncTrainStep second(server.normalization(), "bn", LargeX(), std::chrono::seconds(2));
  Await("waiting call", [&] { return server.server().waiting_calls() == 1; });
  EXPECT_THAT(second.Wait(), GrpcStatusIs(grpc::DEADLINE_EXCEEDED, ::testing::_));
  for (int i = 0; i < 50; ++i) EXPECT_EQ(server.Get("bn").version(), 1);

  held.sink().Release();
  EXPECT_THAT(first.Wait(), GrpcIsOk());
  Await("end of the late call", [&] {
    return held.sink().Contains("layer=bn code=DEADLINE_EXCEEDED") || held.sink().Contains("layer=bn code=CANCELLED");
  });
  EXPECT_EQ(server.Get("bn").version(), 1);
}

TEST(Compute, WhenTooManyWaitTheNextIsRefusedAtOnceAndSmallOnesGoOn) {
  HeldServer held;
  TestServer& server = held.server();
  AsyncTrainStep first(server.normalization(), "hold", LargeX());
  held.sink().AwaitHeld();
  AsyncTrainStep second(server.normalization(), "bn", LargeX());
  Await("waiting call", [&] { return server.server().waiting_calls() == 1; });

  AsyncTrainStep third(server.normalization(), "bn", LargeX());
  EXPECT_THAT(third.Wait(), GrpcStatusIs(grpc::RESOURCE_EXHAUSTED, HasSubstr("compute thread")));
  AsyncTrainStep small(server.normalization(), "bn", MakeTensor<float>({2, 2}, {1, 2, 3, 4}));
  EXPECT_THAT(small.Wait(), GrpcIsOk());

  held.sink().Release();
  EXPECT_THAT(first.Wait(), GrpcIsOk());
  EXPECT_THAT(second.Wait(), GrpcIsOk());
  EXPECT_EQ(server.Get("bn").state().num_batches_tracked(), 2);
}

// grpc.health.v1 by its wire format: a string in field 1 asks, an enum in field 1 answers.
using HealthRequest = google::protobuf::StringValue;
using HealthResponse = google::protobuf::Int32Value;
constexpr int kServing = 1;
constexpr int kNotServing = 2;
constexpr int kServiceUnknown = 3;

// Follows grpc.health.v1.Health/Watch for a service.
class HealthWatch final : public grpc::ClientBidiReactor<HealthRequest, HealthResponse> {
 public:
  HealthWatch(const std::shared_ptr<grpc::Channel>& channel, const std::string& service) : stub_(channel) {
    request_.set_value(service);
    stub_.PrepareBidiStreamingCall(&context_, "/grpc.health.v1.Health/Watch", grpc::StubOptions(), this);
    StartWriteLast(&request_, grpc::WriteOptions());
    StartRead(&response_);
    StartCall();
  }
  ~HealthWatch() override {
    context_.TryCancel();
    AwaitEnd();
  }
  void OnReadDone(bool ok) override {
    if (!ok) return;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      seen_.push_back(response_.value());
    }
    changed_.notify_all();
    StartRead(&response_);
  }
  void OnDone(const grpc::Status&) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    done_ = true;
    changed_.notify_all();
  }
  // What was seen, once there are `count` of them or the stream has ended.
  std::vector<int> Await(size_t count) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return seen_.size() >= count || done_; });
    return seen_;
  }
  void AwaitEnd() {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return done_; });
  }

 private:
  grpc::TemplatedGenericStub<HealthRequest, HealthResponse> stub_;
  grpc::ClientContext context_;
  HealthRequest request_;
  HealthResponse response_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<int> seen_;
  bool done_ = false;
};

grpc::Status CheckService(const std::shared_ptr<grpc::Channel>& channel, const std::string& service, int* answer) {
  grpc::TemplatedGenericStub<HealthRequest, HealthResponse> stub(channel);
  grpc::ClientContext context;
  HealthRequest request;
  request.set_value(service);
  HealthResponse response;
  std::promise<grpc::Status> done;
  stub.UnaryCall(&context, "/grpc.health.v1.Health/Check", grpc::StubOptions(), &request, &response,
                 [&](grpc::Status status) { done.set_value(std::move(status)); });
  grpc::Status status = done.get_future().get();
  *answer = response.value();
  return status;
}

TEST(Health, CheckKnowsTheServerAndItsServices) {
  TestServer server;
  for (const char* service :
       {"", "normd.v1.LayerService", "normd.v1.NormalizationService", "normd.v1.SharedMemoryService"}) {
    int answer = 0;
    EXPECT_THAT(CheckService(server.channel(), service, &answer), GrpcIsOk()) << service;
    EXPECT_EQ(answer, kServing) << service;
  }
  int answer = 0;
  EXPECT_THAT(CheckService(server.channel(), "normd.v1.Other", &answer), GrpcStatusIs(grpc::NOT_FOUND, ::testing::_));
  NORMD_EXPECT_OK(app::CheckHealth(server.address(), {}, kLong));
}

TEST(Health, WatchersHearThatItStopsAndDoNotHoldItUp) {
  TestServer server;
  HealthWatch all(server.channel(), "");
  HealthWatch layers(server.channel(), "normd.v1.LayerService");
  HealthWatch unknown(server.channel(), "nope");
  EXPECT_THAT(all.Await(1), ElementsAre(kServing));
  EXPECT_THAT(layers.Await(1), ElementsAre(kServing));
  EXPECT_THAT(unknown.Await(1), ElementsAre(kServiceUnknown));
  const absl::Time start = absl::Now();
  server.server().Shutdown(kLong);
  EXPECT_LT(absl::Now() - start, kLong / 2) << "the streams of watchers are no calls to wait for";
  EXPECT_THAT(all.Await(2), ElementsAre(kServing, kNotServing));
  EXPECT_THAT(layers.Await(2), ElementsAre(kServing, kNotServing));
  all.AwaitEnd();
}

TEST(Shutdown, LetsARunningCallFinish) {
  HeldServer held;
  TestServer& server = held.server();
  const std::string address = server.address();
  HealthWatch watch(server.channel(), "");
  EXPECT_THAT(watch.Await(1), ElementsAre(kServing));
  AsyncTrainStep call(server.normalization(), "hold", LargeX());
  held.sink().AwaitHeld();

  std::atomic<bool> stopped = false;
  std::thread stopper([&] {
    server.server().Shutdown(kLong);
    stopped = true;
  });
  EXPECT_THAT(watch.Await(2), ElementsAre(kServing, kNotServing)) << "said before the call has ended";
  Await("closed port", [&] { return !app::CheckHealth(address, {}, absl::Seconds(5)).ok(); });
  EXPECT_FALSE(stopped);
  held.sink().Release();
  EXPECT_THAT(call.Wait(), GrpcIsOk());
  stopper.join();
  EXPECT_TRUE(held.sink().Contains("message=stopped"));
}

TEST(Shutdown, CancelsWhatRunsLongerThanTheDrainTimeout) {
  HeldServer held;
  TestServer& server = held.server();
  AsyncTrainStep running(server.normalization(), "hold", LargeX());
  held.sink().AwaitHeld();
  AsyncTrainStep waiting(server.normalization(), "bn", LargeX());
  Await("waiting call", [&] { return server.server().waiting_calls() == 1; });

  std::thread stopper([&] { server.server().Shutdown(absl::ZeroDuration()); });
  // Answered while the compute thread is still held.
  EXPECT_THAT(running.Wait(),
              AnyOf(GrpcStatusIs(grpc::CANCELLED, ::testing::_), GrpcStatusIs(grpc::UNAVAILABLE, ::testing::_)));
  EXPECT_THAT(waiting.Wait(),
              AnyOf(GrpcStatusIs(grpc::CANCELLED, ::testing::_), GrpcStatusIs(grpc::UNAVAILABLE, ::testing::_)));
  held.sink().Release();
  stopper.join();
  EXPECT_TRUE(held.sink().Contains("layer=bn code=CANCELLED"));
}

// Reflection lists services: its messages, unknown here, are read field by field.
TEST(Reflection, ListsTheServices) {
  TestServer server;
  using Any = google::protobuf::Empty;
  struct Lister final : grpc::ClientBidiReactor<Any, Any> {
    explicit Lister(const std::shared_ptr<grpc::Channel>& channel) : stub(channel) {
      constexpr int kListServices = 7;
      request.GetReflection()->MutableUnknownFields(&request)->AddLengthDelimited(kListServices, "");
      stub.PrepareBidiStreamingCall(&context, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
                                    grpc::StubOptions(), this);
      StartWriteLast(&request, grpc::WriteOptions());
      StartRead(&response);
      StartCall();
    }
    void OnDone(const grpc::Status& s) override { done.set_value(s); }
    grpc::TemplatedGenericStub<Any, Any> stub;
    grpc::ClientContext context;
    Any request;
    Any response;
    std::promise<grpc::Status> done;
  };
  Lister lister(server.channel());
  ASSERT_THAT(lister.done.get_future().get(), GrpcIsOk());

  constexpr int kListServicesResponse = 6;
  std::vector<std::string> names;
  const auto fields_of = [](const Any& message) -> const google::protobuf::UnknownFieldSet& {
    return message.GetReflection()->GetUnknownFields(message);
  };
  const auto& answer = fields_of(lister.response);
  for (int i = 0; i < answer.field_count(); ++i) {
    if (answer.field(i).number() != kListServicesResponse) continue;
    Any list;
    ASSERT_TRUE(list.ParseFromString(answer.field(i).length_delimited()));
    for (int j = 0; j < fields_of(list).field_count(); ++j) {
      Any service;
      ASSERT_TRUE(service.ParseFromString(fields_of(list).field(j).length_delimited()));
      names.push_back(fields_of(service).field(0).length_delimited());
    }
  }
  EXPECT_THAT(names,
              IsSupersetOf({"normd.v1.LayerService", "normd.v1.NormalizationService", "normd.v1.SharedMemoryService"}));
}

TEST(Sockets, TcpAndUnixLeadToTheSameLayers) {
  TempDir dir;
  app::ServerOptions options = TestOptions();
  options.unix_socket = dir.Path("normd.sock");
  {
    TestServer server(options);
    ASSERT_THAT(server.server().addresses(), ElementsAre(HasSubstr("127.0.0.1:"), "unix:" + options.unix_socket));
    server.Create("bn", 2);
    auto stub = v1::LayerService::NewStub(NewChannel("unix:" + options.unix_socket));
    v1::GetLayerRequest request;
    request.set_name("bn");
    v1::GetLayerResponse response;
    EXPECT_THAT(Call(*stub, &v1::LayerService::Stub::GetLayer, request, &response), GrpcIsOk());
    EXPECT_EQ(response.layer().name(), "bn");
  }
  EXPECT_FALSE(std::filesystem::exists(options.unix_socket)) << "the socket goes with the server";
}

TEST(Sockets, UnixAlone) {
  TempDir dir;
  app::ServerOptions options;
  options.listen = "";
  options.unix_socket = dir.Path("normd.sock");
  TestServer server(options);
  EXPECT_THAT(server.server().addresses(), ElementsAre("unix:" + options.unix_socket));
  NORMD_EXPECT_OK(app::CheckHealth(server.address(), {}, kLong));
}

absl::Status StartFailure(const app::ServerOptions& options) {
  app::Logger logger(app::LogLevel::kError, app::LogFormat::kText);
  return app::Server::Start(options, &logger).status();
}

TEST(Sockets, ATakenPortIsNamedWithItsCause) {
  TestServer server;
  app::ServerOptions options;
  options.listen = server.address();
  EXPECT_THAT(StartFailure(options),
              StatusIs(absl::StatusCode::kUnavailable,
                       ::testing::StrEq("cannot listen on " + server.address() + ": Address already in use")));
  NORMD_EXPECT_OK(app::CheckHealth(server.address(), {}, kLong));
}

TEST(Sockets, AStaleSocketIsReplacedAndALivingOneIsNot) {
  TempDir dir;
  app::ServerOptions options;
  options.listen = "";
  options.unix_socket = dir.Path("normd.sock");
  {
    // What a killed server leaves behind.
    const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    options.unix_socket.copy(address.sun_path, sizeof(address.sun_path) - 1);
    ASSERT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    close(fd);
  }
  TestServer server(options);
  EXPECT_THAT(StartFailure(options), StatusIs(absl::StatusCode::kAlreadyExists,
                                              "cannot listen on unix:" + options.unix_socket + ": Address already"));
  NORMD_EXPECT_OK(app::CheckHealth(server.address(), {}, kLong));
}

TEST(Sockets, WhatIsNoSocketIsLeftAlone) {
  TempDir dir;
  app::ServerOptions options = TestOptions();
  options.unix_socket = dir.Path("precious");
  std::ofstream(options.unix_socket) << "data";
  EXPECT_THAT(StartFailure(options), StatusIs(absl::StatusCode::kAlreadyExists, "is no socket"));
  EXPECT_EQ(std::filesystem::file_size(options.unix_socket), 4);
}

TEST(Sockets, BadAddressesAreNamed) {
  TempDir dir;
  struct {
    const char* listen;
    std::string unix_socket;
    const char* message;
  } const cases[] = {
      {"127.0.0.1", "", "'127.0.0.1' is not HOST:PORT"},
      {"127.0.0.1:65536", "", "is not HOST:PORT"},
      {"::1:50051", "", "[HOST]:PORT"},
      {"", "", "nothing to listen on"},
      {"192.0.2.1:1", "", "cannot listen on 192.0.2.1:1: Cannot assign requested address"},
      {"", dir.Path("missing/normd.sock"), "missing/normd.sock: No such file or directory"},
      {"", dir.Path(std::string(108, 'a')), "a socket's may have 107"},
  };
  for (const auto& c : cases) {
    app::ServerOptions options;
    options.listen = c.listen;
    options.insecure = true;
    options.unix_socket = c.unix_socket;
    const absl::Status status = StartFailure(options);
    EXPECT_FALSE(status.ok()) << c.listen << c.unix_socket;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.message));
  }
}

}  // namespace
}  // namespace normd::tests
