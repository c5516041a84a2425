#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <future>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "normd/client.h"
#include "normd/testing/fake_server.h"

namespace normd {
namespace {

using testing::FakeServer;

// Lets one thread through when another one says so.
class Gate {
 public:
  void Open() { promise_.set_value(); }
  void Wait() { future_.wait(); }

 private:
  std::promise<void> promise_;
  std::shared_future<void> future_ = promise_.get_future().share();
};

void EchoInfer(FakeServer* server) {
  server->infer = [](grpc::ServerContext*, const v1::InferRequest& request, v1::InferResponse* response) {
    *response->mutable_y() = request.x();
    return grpc::Status::OK;
  };
}

TEST(AsyncTest, ReturnsBeforeTheAnswerAndCopiesTheTensor) {
  FakeServer server;
  Gate gate;
  server.infer = [&](grpc::ServerContext*, const v1::InferRequest& request, v1::InferResponse* response) {
    gate.Wait();
    *response->mutable_y() = request.x();
    return grpc::Status::OK;
  };
  const auto client = Client::Connect(server.target());
  std::promise<absl::StatusOr<InferResult>> promise;
  std::vector<float> x = {1, 2};
  client->InferAsync("a", TensorView(absl::MakeConstSpan(x), {1, 2}), {},
                     [&](absl::StatusOr<InferResult> result) { promise.set_value(std::move(result)); });
  x = {8, 9};
  gate.Open();
  const auto result = promise.get_future().get();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(result->output.values<float>(), ::testing::ElementsAre(1, 2));
}

TEST(AsyncTest, TheDestructorWaitsForThePendingCalls) {
  FakeServer server;
  Gate gate;
  server.infer = [&](grpc::ServerContext*, const v1::InferRequest& request, v1::InferResponse* response) {
    gate.Wait();
    *response->mutable_y() = request.x();
    return grpc::Status::OK;
  };
  std::atomic<int> done{0};
  const std::vector<float> x = {1, 2};
  auto client = Client::Connect(server.target());
  for (int i = 0; i < 4; ++i) {
    client->InferAsync("a", TensorView(absl::MakeConstSpan(x), {1, 2}), {}, [&](const absl::StatusOr<InferResult>& r) {
      EXPECT_TRUE(r.ok()) << r.status();
      ++done;
    });
  }
  std::thread opener([&] { gate.Open(); });
  client.reset();
  EXPECT_EQ(done, 4);
  opener.join();
}

TEST(AsyncTest, ACallMayStartTheNextOne) {
  FakeServer server;
  EchoInfer(&server);
  const std::vector<float> x = {1, 2};
  const TensorView view(absl::MakeConstSpan(x), {1, 2});
  auto client = Client::Connect(server.target());
  std::promise<int> finished;
  std::function<void(int)> step = [&](int left) {
    client->InferAsync("a", view, {}, [&, left](const absl::StatusOr<InferResult>& result) {
      EXPECT_TRUE(result.ok()) << result.status();
      if (left == 0) return finished.set_value(0);
      step(left - 1);
    });
  };
  step(20);
  finished.get_future().get();
  client.reset();
  EXPECT_EQ(server.infer.requests().size(), 21U);
}

TEST(AsyncTest, ABadTensorIsReportedOnAnotherThread) {
  FakeServer server;
  const std::vector<float> x = {1, 2};
  const auto client = Client::Connect(server.target());
  std::promise<std::pair<absl::Status, std::thread::id>> promise;
  client->InferAsync("a", TensorView(absl::MakeConstSpan(x), {3, 3}), {},
                     [&](const absl::StatusOr<InferResult>& result) {
                       promise.set_value({result.status(), std::this_thread::get_id()});
                     });
  const auto [status, thread] = promise.get_future().get();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(thread, std::this_thread::get_id());
  EXPECT_TRUE(server.infer.requests().empty());
}

TEST(AsyncTest, EveryMethodHasAnAsynchronousForm) {
  FakeServer server;
  server.train_step = [](grpc::ServerContext*, const v1::TrainStepRequest&, v1::TrainStepResponse* response) {
    response->set_version(1);
    return grpc::Status::OK;
  };
  server.denormalize = [](grpc::ServerContext*, const v1::DenormalizeRequest& request,
                          v1::DenormalizeResponse* response) {
    *response->mutable_x() = request.y();
    response->set_version(2);
    return grpc::Status::OK;
  };
  server.backward = [](grpc::ServerContext*, const v1::BackwardRequest& request, v1::BackwardResponse* response) {
    *response->mutable_dx() = request.dy();
    response->set_version(3);
    return grpc::Status::OK;
  };
  const std::vector<double> x = {1, 2};
  const TensorView view(absl::MakeConstSpan(x), {1, 2});
  std::atomic<int64_t> versions{0};
  auto client = Client::Connect(server.target());
  client->TrainStepAsync("a", view, {}, [&](const auto& result) { versions += result.value().version; });
  client->DenormalizeAsync("a", view, {}, [&](const auto& result) { versions += result.value().version; });
  client->BackwardAsync("a", view, view, {}, [&](const auto& result) { versions += result.value().version; });
  client.reset();
  EXPECT_EQ(versions, 1 + 2 + 3);
}

TEST(ConcurrencyTest, ManyThreadsShareAClient) {
  FakeServer server;
  EchoInfer(&server);
  constexpr int kThreads = 8;
  constexpr int kCalls = 50;
  auto client = Client::Connect(server.target());
  std::atomic<int> right{0};
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kCalls; ++i) {
        const std::vector<double> x = {t + 0.5, i + 0.25};
        const TensorView view(absl::MakeConstSpan(x), {1, 2});
        const auto check = [&right, x](const absl::StatusOr<InferResult>& result) {
          if (result.ok() && std::equal(x.begin(), x.end(), result->output.values<double>().begin())) ++right;
        };
        if (i % 2 == 0) {
          check(client->Infer("a", view));
        } else {
          client->InferAsync("a", view, {}, check);
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  client.reset();
  EXPECT_EQ(right, kThreads * kCalls);
}

TEST(DeadlineTest, EndsACallThatTheServerDoesNotAnswer) {
  FakeServer server;
  server.train_step = [](grpc::ServerContext* context, const v1::TrainStepRequest&, v1::TrainStepResponse*) {
    while (!context->IsCancelled()) std::this_thread::yield();
    return grpc::Status::OK;
  };
  const auto client = Client::Connect(server.target());
  const std::vector<float> x = {1, 2};
  TrainStepOptions options;
  options.timeout = absl::Milliseconds(50);
  options.request_id = "step-9";
  const auto result = client->TrainStep("a", TensorView(absl::MakeConstSpan(x), {1, 2}), options);
  EXPECT_EQ(result.status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(result.status().message()),
              ::testing::AllOf(::testing::HasSubstr("50ms"), ::testing::HasSubstr("step-9"),
                               ::testing::HasSubstr(server.target())));
}

TEST(DeadlineTest, ZeroAndInfinityAreTimeoutsToo) {
  FakeServer server;
  EchoInfer(&server);
  const auto client = Client::Connect(server.target());
  const std::vector<float> x = {1, 2};
  const TensorView view(absl::MakeConstSpan(x), {1, 2});
  InferOptions options;
  options.timeout = absl::InfiniteDuration();
  EXPECT_TRUE(client->Infer("a", view, options).ok());
  options.timeout = absl::ZeroDuration();
  EXPECT_EQ(client->Infer("a", view, options).status().code(), absl::StatusCode::kDeadlineExceeded);
  std::promise<absl::Status> promise;
  client->InferAsync("a", view, options, [&](const auto& result) { promise.set_value(result.status()); });
  EXPECT_EQ(promise.get_future().get().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(server.infer.requests().size(), 1U);
}

}  // namespace
}  // namespace normd
