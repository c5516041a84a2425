// Shared memory through a real server: sessions and regions as clients see them, and what becomes of them when a client
// goes, in whatever way.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "normd/v1/shared_memory_service.grpc.pb.h"
#include "tests/integration/test_server.h"
#include "tests/server/shm/shm_object.h"

namespace normd::tests {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;

using SharedMemoryStub = v1::SharedMemoryService::Stub;

app::ServerOptions SharedMemoryOptions() {
  app::ServerOptions options = TestOptions();
  options.shared_memory = true;
  options.max_shared_memory_bytes = 1 << 20;
  return options;
}

grpc::Status Register(SharedMemoryStub& stub, const std::string& session, const std::string& name, int64_t size_bytes,
                      std::string* region) {
  v1::RegisterRegionRequest request;
  request.set_session(session);
  request.set_name(name);
  request.set_size_bytes(size_bytes);
  v1::RegisterRegionResponse response;
  grpc::Status status = Call(stub, &SharedMemoryStub::RegisterRegion, request, &response);
  *region = response.region();
  return status;
}

grpc::Status Unregister(SharedMemoryStub& stub, const std::string& session, const std::string& region) {
  v1::UnregisterRegionRequest request;
  request.set_session(session);
  request.set_region(region);
  v1::UnregisterRegionResponse response;
  return Call(stub, &SharedMemoryStub::UnregisterRegion, request, &response);
}

grpc::Status List(SharedMemoryStub& stub, const std::string& session, v1::ListRegionsResponse* response) {
  v1::ListRegionsRequest request;
  request.set_session(session);
  return Call(stub, &SharedMemoryStub::ListRegions, request, response);
}

bool IsKnown(SharedMemoryStub& stub, const std::string& session) {
  v1::ListRegionsResponse response;
  return List(stub, session, &response).error_code() != grpc::StatusCode::NOT_FOUND;
}

// A client with a connection and a session of its own.
class Client {
 public:
  explicit Client(TestServer& server)
      : channel_(NewChannel(server.address())), stub_(v1::SharedMemoryService::NewStub(channel_)) {
    stream_ = stub_->OpenSession(&context_, v1::OpenSessionRequest());
    EXPECT_TRUE(stream_->Read(&session_));
  }
  ~Client() {
    if (stream_ == nullptr) return;
    Cancel();
    Finish();
  }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  SharedMemoryStub& stub() { return *stub_; }
  const std::string& session() const { return session_.session(); }
  const std::string& key() const { return session_.key(); }
  std::string MustRegister(ShmObject& object, int64_t size_bytes) {
    object.Write(0, key());
    std::string region;
    EXPECT_THAT(Register(*stub_, session(), object.name(), size_bytes, &region), GrpcIsOk());
    return region;
  }
  void Cancel() { context_.TryCancel(); }
  // Waits for the end of the stream.
  grpc::Status Finish() {
    v1::OpenSessionResponse more;
    EXPECT_FALSE(stream_->Read(&more)) << "one message only";
    grpc::Status status = stream_->Finish();
    stream_.reset();
    return status;
  }

 private:
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<SharedMemoryStub> stub_;
  grpc::ClientContext context_;
  v1::OpenSessionResponse session_;
  std::unique_ptr<grpc::ClientReader<v1::OpenSessionResponse>> stream_;
};

TEST(SharedMemoryService, RegistersListsAndUnregisters) {
  TestServer server(SharedMemoryOptions());
  Client client(server);
  EXPECT_THAT(client.session(), MatchesRegex("[0-9a-f]+"));
  EXPECT_EQ(client.session().size(), 32U);
  EXPECT_THAT(client.key(), MatchesRegex("[0-9a-f]+"));
  EXPECT_EQ(client.key().size(), 32U);

  ShmObject a(1000);
  ShmObject b(2000);
  const std::string region_a = client.MustRegister(a, 1000);
  const std::string region_b = client.MustRegister(b, 1500);
  EXPECT_THAT(region_a, MatchesRegex("[0-9a-f]+"));
  EXPECT_EQ(server.server().shared_memory_bytes(), 2500);

  b.Truncate(100);
  v1::ListRegionsResponse list;
  ASSERT_THAT(List(client.stub(), client.session(), &list), GrpcIsOk());
  ASSERT_EQ(list.regions_size(), 2);
  EXPECT_EQ(list.regions(0).region(), region_a);
  EXPECT_EQ(list.regions(0).name(), a.name());
  EXPECT_EQ(list.regions(0).size_bytes(), 1000);
  EXPECT_FALSE(list.regions(0).lost());
  EXPECT_EQ(list.regions(1).region(), region_b);
  EXPECT_TRUE(list.regions(1).lost());

  EXPECT_THAT(Unregister(client.stub(), client.session(), region_b), GrpcIsOk());
  EXPECT_THAT(Unregister(client.stub(), client.session(), region_b),
              GrpcStatusIs(grpc::StatusCode::NOT_FOUND, HasSubstr("region")));
  EXPECT_EQ(server.server().shared_memory_bytes(), 1000);
}

TEST(SharedMemoryService, StatusesSayWhatIsWrong) {
  TestServer server(SharedMemoryOptions());
  Client client(server);
  ShmObject object(1000);
  ShmObject open_to_all(1000, 0666);
  object.Write(0, client.key());
  open_to_all.Write(0, client.key());
  ShmObject without_key(1000);
  const struct {
    std::string session;
    std::string name;
    int64_t size_bytes;
    grpc::StatusCode code;
    const char* message;
  } cases[] = {
      {"", object.name(), 1000, grpc::StatusCode::NOT_FOUND, "session"},
      {client.key(), object.name(), 1000, grpc::StatusCode::NOT_FOUND, "session"},
      {client.session(), "", 1000, grpc::StatusCode::INVALID_ARGUMENT, "want a slash"},
      {client.session(), "/../etc/passwd", 1000, grpc::StatusCode::INVALID_ARGUMENT, "want a slash"},
      {client.session(), "/normd-test-nothing", 1000, grpc::StatusCode::NOT_FOUND, "No such file"},
      {client.session(), object.name(), 0, grpc::StatusCode::INVALID_ARGUMENT, "size_bytes is 0"},
      {client.session(), object.name(), 1001, grpc::StatusCode::OUT_OF_RANGE, "has 1000 bytes"},
      {client.session(), object.name(), (1 << 20) + 1, grpc::StatusCode::RESOURCE_EXHAUSTED, "of 1048576 are mapped"},
      {client.session(), open_to_all.name(), 1000, grpc::StatusCode::PERMISSION_DENIED, "everybody may write"},
      {client.session(), without_key.name(), 1000, grpc::StatusCode::PERMISSION_DENIED, "key"},
  };
  for (const auto& c : cases) {
    std::string region;
    EXPECT_THAT(Register(client.stub(), c.session, c.name, c.size_bytes, &region),
                GrpcStatusIs(c.code, HasSubstr(c.message)));
  }
  EXPECT_EQ(server.server().shared_memory_bytes(), 0);
}

TEST(SharedMemoryService, IsOffUnlessAskedFor) {
  TestServer server;
  const auto stub = v1::SharedMemoryService::NewStub(server.channel());
  const auto is_off = GrpcStatusIs(grpc::StatusCode::FAILED_PRECONDITION, HasSubstr("--shared-memory"));
  grpc::ClientContext context;
  const auto stream = stub->OpenSession(&context, v1::OpenSessionRequest());
  v1::OpenSessionResponse session;
  EXPECT_FALSE(stream->Read(&session));
  EXPECT_THAT(stream->Finish(), is_off);
  std::string region;
  EXPECT_THAT(Register(*stub, "", "/x", 64, &region), is_off);
  EXPECT_THAT(Unregister(*stub, "", ""), is_off);
  v1::ListRegionsResponse list;
  EXPECT_THAT(List(*stub, "", &list), is_off);
}

TEST(SharedMemoryService, ACancelledStreamEndsItsSession) {
  TestServer server(SharedMemoryOptions());
  Client stays(server);
  ShmObject kept(1000);
  ShmObject object(1000);
  stays.MustRegister(kept, 500);
  Client client(server);
  client.MustRegister(object, 1000);
  client.Cancel();
  EXPECT_EQ(client.Finish().error_code(), grpc::StatusCode::CANCELLED);
  Await("end of the session", [&] { return !IsKnown(stays.stub(), client.session()); });
  Await("unmapping", [&] { return server.server().shared_memory_bytes() == 500; });
  EXPECT_EQ(object.NumMappings(), 0);
  EXPECT_EQ(kept.NumMappings(), 1);
  EXPECT_TRUE(IsKnown(stays.stub(), stays.session()));
}

// A client in a process of its own (shared_memory_client.cc), which waits for its end.
class ClientProcess {
 public:
  ClientProcess(const std::string& address, const std::string& name) {
    int pipe_fds[2];
    EXPECT_EQ(pipe2(pipe_fds, O_CLOEXEC), 0);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, pipe_fds[1], STDOUT_FILENO);
    std::vector<std::string> arguments = {NORMD_SHARED_MEMORY_CLIENT, address, name};
    std::vector<char*> argv;
    argv.reserve(arguments.size() + 1);
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    EXPECT_EQ(posix_spawn(&pid_, argv[0], &actions, nullptr, argv.data(), environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    close(pipe_fds[1]);
    FILE* const out = fdopen(pipe_fds[0], "r");
    char session[33] = "";
    EXPECT_EQ(fscanf(out, "%32s", session), 1);
    fclose(out);
    session_ = session;
  }
  ~ClientProcess() { Kill(); }
  ClientProcess(const ClientProcess&) = delete;
  ClientProcess& operator=(const ClientProcess&) = delete;

  const std::string& session() const { return session_; }
  void Kill() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }

 private:
  pid_t pid_ = -1;
  std::string session_;
};

TEST(SharedMemoryService, AKilledClientLeavesNothing) {
  TestServer server(SharedMemoryOptions());
  const auto stub = v1::SharedMemoryService::NewStub(server.channel());
  const std::string name = "/normd-test-killed-" + std::to_string(getpid());
  ClientProcess client(server.address(), name);
  EXPECT_EQ(server.server().shared_memory_bytes(), 8192);
  EXPECT_TRUE(IsKnown(*stub, client.session()));
  client.Kill();
  Await("end of the session", [&] { return !IsKnown(*stub, client.session()); });
  Await("unmapping", [&] { return server.server().shared_memory_bytes() == 0; });
}

TEST(SharedMemoryService, OpenSessionsDoNotHoldUpTheEndOfTheServer) {
  TestServer server(SharedMemoryOptions());
  Client client(server);
  ShmObject object(1000);
  client.MustRegister(object, 1000);
  const auto start = std::chrono::steady_clock::now();
  server.server().Shutdown(absl::Seconds(60));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(30));
  EXPECT_THAT(client.Finish(), GrpcStatusIs(grpc::StatusCode::UNAVAILABLE, HasSubstr("the server is stopping")));
  EXPECT_EQ(server.server().shared_memory_bytes(), 0);
  EXPECT_EQ(object.NumMappings(), 0);
}

TEST(SharedMemoryService, ManyClientsComeAndGo) {
  TestServer server(SharedMemoryOptions());
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      ShmObject object(1000);
      for (int round = 0; round < 10; ++round) {
        Client client(server);
        const std::string region = client.MustRegister(object, 1000);
        if (round % 2 == 0) {
          EXPECT_THAT(Unregister(client.stub(), client.session(), region), GrpcIsOk());
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  Await("unmapping", [&] { return server.server().shared_memory_bytes() == 0; });
}

}  // namespace
}  // namespace normd::tests
