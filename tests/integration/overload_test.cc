// More than the server has memory or time for, calls that nobody waits for any more, and messages that are encoded as
// no serializer does: what is refused, that the refused change nothing, and that all memory comes back.

#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "normd/v1/error_details.pb.h"
#include "tests/integration/held_server.h"
#include "tests/integration/test_server.h"
#include "tests/proto/wire/encoding.h"

namespace normd::tests {
namespace {

using ::testing::_;
using ::testing::HasSubstr;

constexpr int64_t kMiB = 1 << 20;

// The RetryInfo of a status; zero if it has none.
absl::Duration RetryDelay(const grpc::Status& status) {
  v1::ErrorStatus details;
  if (!details.ParseFromString(status.error_details())) return absl::ZeroDuration();
  EXPECT_TRUE(details.details().empty() || details.code() == status.error_code());
  for (const google::protobuf::Any& any : details.details()) {
    if (any.type_url() != "type.googleapis.com/google.rpc.RetryInfo") continue;
    v1::RetryInfo info;
    EXPECT_TRUE(info.ParseFromString(any.value()));
    return absl::Seconds(info.retry_delay().seconds()) + absl::Nanoseconds(info.retry_delay().nanos());
  }
  return absl::ZeroDuration();
}

// RESOURCE_EXHAUSTED with a RetryInfo and a message that contains `text`.
MATCHER_P(IsRefusedForNow, text, "") {
  *result_listener << "which has code " << arg.error_code() << " and message \"" << arg.error_message() << '"';
  const absl::Duration delay = RetryDelay(arg);
  return arg.error_code() == grpc::RESOURCE_EXHAUSTED && delay >= absl::Milliseconds(1) && delay <= absl::Minutes(1) &&
         arg.error_message().find(text) != std::string::npos;
}

void ExpectAllMemoryComesBack(TestServer& server) {
  // gRPC lets an answer go shortly after the client has it.
  Await("memory that comes back", [&] { return server.server().buffers().in_use_bytes() == 0; });
}

// float64, 2 channels.
v1::Tensor TensorOf(int64_t bytes) { return MakeTensor(std::vector<int64_t>{bytes / 16, 2}, SomeValues(bytes / 8)); }

grpc::Status TrainStep(TestServer& server, const v1::Tensor& x) {
  return AsyncTrainStep(server.normalization(), "bn", x).Wait();
}

TEST(MemoryBudget, IsNeverPassedAndEveryAnswerIsOkOrComeBackLater) {
  app::ServerOptions options = TestOptions();
  options.threads = 2;
  options.memory_budget_bytes = 24 * kMiB;
  TestServer server(options);
  server.Create("bn", 2);
  const v1::Tensor x = TensorOf(4 * kMiB);
  std::atomic<int> ok = 0;
  std::atomic<int> refused = 0;
  std::vector<std::thread> clients;
  for (int i = 0; i < 12; ++i) {
    clients.emplace_back([&] {
      // Connections of their own, so that the messages arrive at the same time.
      const auto stub = v1::NormalizationService::NewStub(NewChannel(server.address()));
      for (int call = 0; call < 4; ++call) {
        const grpc::Status status = AsyncTrainStep(*stub, "bn", x).Wait();
        if (!status.ok()) {
          EXPECT_THAT(status, IsRefusedForNow(""));
        }
        ++(status.ok() ? ok : refused);
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_GT(ok, 0);
  EXPECT_EQ(server.Get("bn").state().num_batches_tracked(), ok);
  EXPECT_LE(server.server().buffers().peak_bytes(), options.memory_budget_bytes);
  EXPECT_GE(server.server().buffers().peak_bytes(), 8 * kMiB);
  ExpectAllMemoryComesBack(server);
  EXPECT_THAT(TrainStep(server, x), GrpcIsOk());
}

TEST(MemoryBudget, WhenOthersHoldItCallsAreToldToComeBack) {
  app::ServerOptions options = TestOptions();
  options.memory_budget_bytes = 12 * kMiB;
  TestServer server(options);
  server.Create("bn", 2);
  int steps = 0;
  // There is room for the message and not for its tensor, for the tensor and not for its result, and not for a message.
  for (const int64_t held : {8 * kMiB, 5 * kMiB, 10 * kMiB}) {
    SCOPED_TRACE(held);
    {
      const wire::BufferPool::Reservation others = server.server().buffers().Reserve(static_cast<std::size_t>(held));
      ASSERT_TRUE(others);
      EXPECT_THAT(TrainStep(server, TensorOf(3 * kMiB)), IsRefusedForNow("memory"));
      Await("end of the call", [&] { return server.server().buffers().in_use_bytes() == held; });
      EXPECT_EQ(server.Get("bn").state().num_batches_tracked(), steps);
    }
    EXPECT_THAT(TrainStep(server, TensorOf(1024)), GrpcIsOk());
    ++steps;
    ExpectAllMemoryComesBack(server);
  }
  EXPECT_LE(server.server().buffers().peak_bytes(), options.memory_budget_bytes);
  ExpectAllMemoryComesBack(server);
}

TEST(MemoryBudget, WhatCanNeverFitIsRefusedForGood) {
  app::ServerOptions options = TestOptions();
  options.memory_budget_bytes = 14 * kMiB;
  TestServer server(options);
  server.Create("bn", 2);
  EXPECT_EQ(server.server().max_message_bytes(), 4 * kMiB);
  const grpc::Status status = TrainStep(server, TensorOf(4 * kMiB));
  EXPECT_THAT(status, GrpcStatusIs(grpc::RESOURCE_EXHAUSTED, HasSubstr("larger than max")));
  EXPECT_EQ(RetryDelay(status), absl::ZeroDuration()) << "it would come back for nothing";
  // And the largest that is let in fits, of whatever size class.
  for (const int64_t bytes : {4 * kMiB - 1024, 3 * kMiB + kMiB / 2 + 1024, 2 * kMiB + 1024}) {
    EXPECT_THAT(TrainStep(server, TensorOf(bytes)), GrpcIsOk()) << bytes;
    ExpectAllMemoryComesBack(server);
  }
}

TEST(Queue, WhenTooManyWaitTheNextIsToldWhenToComeBack) {
  HeldServer held;
  TestServer& server = held.server();
  AsyncTrainStep first(server.normalization(), "hold", LargeX());
  held.sink().AwaitHeld();
  AsyncTrainStep second(server.normalization(), "bn", LargeX());
  Await("waiting call", [&] { return server.server().waiting_calls() == 1; });
  const int64_t in_use = server.server().buffers().in_use_bytes();
  EXPECT_GE(in_use, 8 * kMiB) << "two tensors";
  EXPECT_THAT(TrainStep(server, LargeX()), IsRefusedForNow("compute thread"));
  Await("memory of the refused call", [&] { return server.server().buffers().in_use_bytes() == in_use; });

  held.sink().Release();
  EXPECT_THAT(first.Wait(), GrpcIsOk());
  EXPECT_THAT(second.Wait(), GrpcIsOk());
  EXPECT_EQ(server.Get("bn").state().num_batches_tracked(), 1);
  ExpectAllMemoryComesBack(server);
  EXPECT_THAT(TrainStep(server, LargeX()), GrpcIsOk());
}

// Of calls that end while they wait to be computed.
TEST(Abandoned, CancelledAndLateCallsGiveTheirMemoryBackAndChangeNothing) {
  for (const bool cancel : {true, false}) {
    SCOPED_TRACE(cancel);
    HeldServer held;
    TestServer& server = held.server();
    AsyncTrainStep first(server.normalization(), "hold", LargeX());
    held.sink().AwaitHeld();
    AsyncTrainStep second(server.normalization(), "bn", LargeX(), std::chrono::seconds(cancel ? 120 : 2));
    Await("waiting call", [&] { return server.server().waiting_calls() == 1; });
    if (cancel) second.Cancel();
    EXPECT_THAT(second.Wait(), GrpcStatusIs(cancel ? grpc::CANCELLED : grpc::DEADLINE_EXCEEDED, _));
    // The server reads a connection in order, so that it has seen the cancellation before these.
    for (int i = 0; i < 50; ++i) EXPECT_EQ(server.Get("bn").version(), 1);
    held.sink().Release();
    EXPECT_THAT(first.Wait(), GrpcIsOk());
    Await("end of the abandoned call", [&] {
      return held.sink().Contains("layer=bn code=CANCELLED") || held.sink().Contains("layer=bn code=DEADLINE_EXCEEDED");
    });
    ExpectAllMemoryComesBack(server);
    EXPECT_EQ(server.Get("bn").version(), 1);
  }
}

// Of calls whose clients go while the answer is on its way: the step has been committed, the memory comes back.
TEST(Abandoned, AnAnswerThatNobodyReadsIsFreed) {
  HeldServer held;
  TestServer& server = held.server();
  AsyncTrainStep first(server.normalization(), "hold", LargeX());
  held.sink().AwaitHeld();
  EXPECT_GE(server.server().buffers().in_use_bytes(), 4 * kMiB);
  first.Cancel();
  EXPECT_THAT(first.Wait(), GrpcStatusIs(grpc::CANCELLED, _));
  held.sink().Release();
  ExpectAllMemoryComesBack(server);
  EXPECT_EQ(server.Get("hold").state().num_batches_tracked(), 1);
}

// Sends bytes as they are.
struct RawCall {
  grpc::Status status;
  std::string response;
};
RawCall CallRaw(TestServer& server, const std::string& method, const std::string& request,
                const std::vector<std::size_t>& pieces = {}) {
  grpc::GenericStub stub(server.channel());
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
  const grpc::ByteBuffer bytes = InPieces(request, pieces);
  grpc::ByteBuffer answer;
  std::promise<grpc::Status> done;
  stub.UnaryCall(&context, "/normd.v1.NormalizationService/" + method, grpc::StubOptions(), &bytes, &answer,
                 [&](grpc::Status status) { done.set_value(std::move(status)); });
  RawCall result;
  result.status = done.get_future().get();
  if (result.status.ok()) result.response = ToString(answer);
  return result;
}

TEST(Encoding, WhatIsNoMessageIsRefusedByTypeAndTheServerGoesOn) {
  TestServer server;
  server.Create("bn", 2);
  struct {
    const char* name;
    std::string bytes;
  } const cases[] = {
      {"a length beyond the end", Tag(2, kBytes) + Varint(1000) + "x"},
      {"a payload beyond its tensor", BytesField(2, Tag(4, kBytes) + Varint(8) + "1234567")},
      {"a number without an end", Tag(9, kVarint) + std::string(11, '\xFF')},
      {"an open group", Tag(9, kStartGroup)},
      {"text that is no UTF-8", BytesField(1, "\xC3(")},
      {"field number zero", std::string(5, '\0')},
      {"groups without an end", std::string(100000, '\x4B')},
  };
  for (const char* method : {"TrainStep", "Infer", "Denormalize", "Backward"}) {
    for (const auto& c : cases) {
      EXPECT_THAT(CallRaw(server, method, c.bytes).status,
                  GrpcStatusIs(grpc::INVALID_ARGUMENT, HasSubstr(std::string("normd.v1.") + method + "Request")))
          << method << ": " << c.name;
    }
    EXPECT_THAT(CallRaw(server, method, "").status, GrpcStatusIs(grpc::INVALID_ARGUMENT, _)) << method << ": nothing";
  }
  EXPECT_EQ(server.Get("bn").version(), 1);
  ExpectAllMemoryComesBack(server);
  EXPECT_THAT(TrainStep(server, TensorOf(1024)), GrpcIsOk());
}

TEST(Encoding, EveryOneThatProtobufReadsHasTheSameAnswer) {
  const v1::Tensor x = TensorOf(100000);
  v1::Tensor header = x;
  header.clear_data();
  const std::string data = BytesField(4, x.data());
  const std::string layer = BytesField(1, "bn");
  std::string unpacked = VarintField(1, v1::DATA_TYPE_FLOAT64);
  for (const int64_t extent : x.shape()) unpacked += VarintField(2, static_cast<std::uint64_t>(extent));
  const std::string unknown = Group(77, VarintField(4, 1)) + BytesField(78, "x");
  struct {
    const char* name;
    std::string bytes;
  } const cases[] = {
      {"in order", layer + BytesField(2, x.SerializeAsString())},
      {"x before the layer", BytesField(2, x.SerializeAsString()) + layer},
      {"data before what it is", BytesField(2, data + header.SerializeAsString()) + layer},
      {"x in two parts", BytesField(2, data) + layer + BytesField(2, header.SerializeAsString())},
      {"x in two parts, data last", BytesField(2, header.SerializeAsString()) + layer + BytesField(2, data)},
      {"other data before",
       BytesField(2, BytesField(4, "abc") + header.SerializeAsString()) + layer + BytesField(2, data)},
      {"unpacked shape and unknown fields", unknown + layer + BytesField(2, unpacked + unknown + data + unknown)},
      {"another layer before", BytesField(1, "other") + layer + BytesField(2, x.SerializeAsString())},
      {"long tags", Tag(1, kBytes, 5) + Varint(2, 5) + "bn" + BytesField(2, x.SerializeAsString())},
  };
  std::string want;
  for (const auto& c : cases) {
    SCOPED_TRACE(c.name);
    // Each on a fresh layer of the same name.
    TestServer server;
    server.Create("bn", 2);
    const RawCall call = CallRaw(server, "TrainStep", c.bytes, {3, 1000, 17, 20001});
    ASSERT_THAT(call.status, GrpcIsOk());
    v1::TrainStepResponse response;
    ASSERT_TRUE(response.ParseFromString(call.response));
    EXPECT_EQ(response.y().data().size(), x.data().size());
    if (want.empty()) want = response.SerializeAsString();
    EXPECT_EQ(response.SerializeAsString(), want);
    EXPECT_EQ(server.Get("bn").state().num_batches_tracked(), 1);
  }
}

// A server that a call has left memory with. By what the pool holds: the whole process's is in process_test.
class KeptMemory : public ::testing::Test {
 protected:
  KeptMemory() : server_(Options()) {
    server_.Create("bn", 2);
    EXPECT_THAT(TrainStep(server_, TensorOf(4 * kMiB)), GrpcIsOk());
    EXPECT_GE(server_.server().buffers().peak_bytes(), 4 * kMiB);
  }

  bool HasGoneBack() {
    return server_.server().buffers().in_use_bytes() == 0 && server_.server().buffers().kept_bytes() == 0;
  }

  TestServer server_;

 private:
  static app::ServerOptions Options() {
    app::ServerOptions options = TestOptions();
    options.release_memory_after = absl::Milliseconds(100);
    return options;
  }
};

TEST_F(KeptMemory, GoesBackWhenTheCallsHaveStopped) {
  Await("memory that goes back", [&] { return HasGoneBack(); });
}

TEST_F(KeptMemory, GoesBackWhileCallsComeThatDoNotNeedIt) {
  Await("memory that goes back", [&] {
    EXPECT_THAT(TrainStep(server_, TensorOf(64)), GrpcIsOk());
    return HasGoneBack();
  });
}

}  // namespace
}  // namespace normd::tests
