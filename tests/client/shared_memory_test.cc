#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <future>
#include <memory>
#include <mutex>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "normd/client.h"
#include "normd/testing/fake_server.h"
#include "tests/client/fake_shared_memory.h"

namespace normd {
namespace {

using ::testing::ElementsAre;
using testing::FakeServer;
using testing::FakeSharedMemory;
using ::testing::HasSubstr;

// 120 KB as floats, above the least that goes through shared memory.
constexpr int64_t kCount = 30'000;
constexpr std::size_t kBytes = kCount * sizeof(float);

std::vector<float> Ramp() {
  std::vector<float> values(kCount);
  std::iota(values.begin(), values.end(), 1.0F);
  return values;
}

TensorView ViewOf(const std::vector<float>& values) {
  return {absl::MakeConstSpan(values), {static_cast<int64_t>(values.size()), 1}};
}

bool IsNegatedRamp(absl::Span<const float> values) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (values[i] != -static_cast<float>(i + 1)) return false;
  }
  return values.size() == kCount;
}

class SharedMemoryTest : public ::testing::Test {
 protected:
  SharedMemoryTest() {
    server_.infer = [this](auto*, const v1::InferRequest& request, v1::InferResponse* response) {
      return Negate(request.x(), request.has_y_shared_memory() ? &request.y_shared_memory() : nullptr,
                    response->mutable_y());
    };
    server_.train_step = [this](auto*, const v1::TrainStepRequest& request, v1::TrainStepResponse* response) {
      return Negate(request.x(), request.has_y_shared_memory() ? &request.y_shared_memory() : nullptr,
                    response->mutable_y());
    };
    options_.transport = Transport::kSharedMemory;
    options_.on_warning = [this](absl::string_view text) {
      const std::lock_guard<std::mutex> lock(mutex_);
      warnings_.emplace_back(text);
    };
  }

  // y = -x, wherever the two are.
  grpc::Status Negate(const v1::Tensor& x, const v1::SharedMemoryRange* range, v1::Tensor* y) {
    std::size_t size = sizeof(float);
    for (const int64_t extent : x.shape()) size *= static_cast<std::size_t>(extent);
    const char* from = x.has_shared_memory() ? memory_.Find(x.shared_memory()) : x.data().data();
    if (from == nullptr) return {grpc::StatusCode::NOT_FOUND, "no such region"};
    if (fail_shared_ && x.has_shared_memory()) return {grpc::StatusCode::DATA_LOSS, "cut short"};
    std::string negated(from, size);
    for (std::size_t i = 3; i < size; i += 4) negated[i] = static_cast<char>(negated[i] ^ 0x80);
    *y = x;
    y->clear_data();
    y->clear_shared_memory();
    if (range == nullptr) {
      y->set_data(negated);
      return grpc::Status::OK;
    }
    char* const to = memory_.Find(*range);
    if (to == nullptr) return {grpc::StatusCode::NOT_FOUND, "no such region"};
    std::memcpy(to, negated.data(), size);
    return grpc::Status::OK;
  }

  std::unique_ptr<Client> MakeClient() { return Client::Connect(server_.target(), options_); }

  // Of the calls so far: how many had their tensor in shared memory.
  int SharedCalls() {
    int shared = 0;
    for (const auto& request : server_.infer.requests()) shared += request.x().has_shared_memory() ? 1 : 0;
    return shared;
  }

  std::vector<std::string> warnings() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return warnings_;
  }

  std::mutex mutex_;
  std::vector<std::string> warnings_;
  std::atomic<bool> fail_shared_{false};
  FakeSharedMemory memory_;
  FakeServer server_{{&memory_}};
  ClientOptions options_;
};

TEST_F(SharedMemoryTest, TensorsStandInRegionsThatAreUsedAgain) {
  const auto client = MakeClient();
  const std::vector<float> x = Ramp();
  for (int i = 0; i < 5; ++i) {
    const auto y = client->Infer("a", ViewOf(x));
    ASSERT_TRUE(y.ok()) << y.status();
    EXPECT_TRUE(IsNegatedRamp(y->output.values<float>()));
  }
  for (const auto& request : server_.infer.requests()) {
    EXPECT_TRUE(request.x().data().empty());
    EXPECT_TRUE(request.x().has_shared_memory());
    EXPECT_NE(request.y_shared_memory().region(), request.x().shared_memory().region());
    EXPECT_EQ(request.y_shared_memory().offset() % 64, 0);
  }
  EXPECT_EQ(server_.infer.requests().size(), 5U);
  EXPECT_EQ(memory_.all().size(), 2U) << "one for x and one for y";
  for (const FakeSharedMemory::Region& region : memory_.all()) {
    EXPECT_LT(shm_open(region.name.c_str(), O_RDWR, 0), 0) << "nothing is left to clean up";
  }
  EXPECT_THAT(warnings(), ElementsAre());
}

TEST_F(SharedMemoryTest, AllocatedTensorsAreNotCopied) {
  const auto client = MakeClient();
  Tensor x = client->AllocateTensor(DType::kFloat32, {kCount, 1}).value();
  Tensor y = client->AllocateTensor(DType::kFloat32, {kCount, 1}).value();
  ASSERT_EQ(memory_.all().size(), 2U);
  const absl::Span<float> values = x.mutable_values<float>();
  std::iota(values.begin(), values.end(), 1.0F);
  InferOptions options;
  options.into = y.mutable_bytes();
  const auto result = client->Infer("a", x.view(), options);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(result->output.empty());
  EXPECT_TRUE(IsNegatedRamp(y.values<float>()));
  EXPECT_EQ(x.mutable_bytes().data(), reinterpret_cast<char*>(values.data())) << "the call has let go of it";
  EXPECT_EQ(memory_.all().size(), 2U) << "neither needed another place";

  // Over the input itself: by way of another place, so that an attempt that fails leaves the input alone.
  options.into = x.mutable_bytes();
  ASSERT_TRUE(client->Infer("a", x.view(), options).ok());
  EXPECT_TRUE(IsNegatedRamp(x.values<float>()));
  EXPECT_EQ(memory_.all().size(), 3U);
  const auto request = server_.infer.requests().at(1);
  EXPECT_NE(request.x().shared_memory().region(), request.y_shared_memory().region());

  // What came back goes into the next call from where it stands.
  const auto first = client->Infer("a", y.view()).value();
  ASSERT_TRUE(client->Infer("a", first.output.view()).ok());
  EXPECT_EQ(server_.infer.requests().at(3).x().shared_memory().region(),
            server_.infer.requests().at(2).y_shared_memory().region());
}

TEST_F(SharedMemoryTest, ResultsOutliveTheClient) {
  const std::vector<float> x = Ramp();
  auto client = MakeClient();
  Tensor y = client->Infer("a", ViewOf(x)).value().output;
  client.reset();
  EXPECT_TRUE(IsNegatedRamp(y.values<float>()));
  // To another client it is a tensor as any other.
  const auto other = MakeClient()->Infer("a", y.view());
  ASSERT_TRUE(other.ok()) << other.status();
  EXPECT_EQ(other->output.values<float>()[0], 1);
}

TEST_F(SharedMemoryTest, SmallTensorsTravelInTheMessage) {
  const std::vector<float> x = {1, 2, 3, 4};
  ASSERT_TRUE(MakeClient()->Infer("a", ViewOf(x)).ok());
  EXPECT_EQ(SharedCalls(), 0);
  EXPECT_EQ(memory_.sessions(), 0) << "a session is opened when it is needed";
}

TEST_F(SharedMemoryTest, AsynchronousCallsDoNotWaitForARegion) {
  const std::vector<float> x = Ramp();
  auto client = MakeClient();
  for (int i = 0; i < 200 && SharedCalls() == 0; ++i) {
    std::promise<absl::StatusOr<InferResult>> promise;
    client->InferAsync("a", ViewOf(x), {}, [&](auto result) { promise.set_value(std::move(result)); });
    const auto y = promise.get_future().get();
    ASSERT_TRUE(y.ok()) << y.status();
    EXPECT_TRUE(IsNegatedRamp(y->output.values<float>()));
  }
  EXPECT_FALSE(server_.infer.requests().at(0).x().has_shared_memory());
  EXPECT_GT(SharedCalls(), 0);
}

TEST_F(SharedMemoryTest, WhatFindsNoRoomTravelsInTheMessage) {
  options_.max_shared_memory_bytes = 200 << 10;
  const auto client = MakeClient();
  const std::vector<float> x = Ramp();
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(client->Infer("a", ViewOf(x)).ok());
  EXPECT_EQ(SharedCalls(), 3);
  EXPECT_FALSE(server_.infer.requests().at(0).has_y_shared_memory()) << "there is room for one only";
  EXPECT_EQ(memory_.all().size(), 1U);
  // Another size takes the place of what is not in use.
  const std::vector<float> smaller(20'000, 1.0F);
  ASSERT_TRUE(client->Infer("a", ViewOf(smaller)).ok());
  EXPECT_EQ(SharedCalls(), 4);
  memory_.WaitForRegions(2);
}

struct Refusal {
  const char* name;
  grpc::Status open_status;
  grpc::Status register_status;
  bool has_service;
};

class RefusalTest : public SharedMemoryTest, public ::testing::WithParamInterface<Refusal> {};

TEST_P(RefusalTest, TensorsTravelInTheMessageAfterOneWarning) {
  memory_.open_status = GetParam().open_status;
  memory_.register_status = GetParam().register_status;
  internal::handover::Give();
  FakeServer older;
  older.infer = [this](auto*, const v1::InferRequest& request, v1::InferResponse* response) {
    return Negate(request.x(), nullptr, response->mutable_y());
  };
  const auto client = Client::Connect(GetParam().has_service ? server_.target() : older.target(), options_);
  const std::vector<float> x = Ramp();
  for (int i = 0; i < 4; ++i) {
    const auto y = client->Infer("a", ViewOf(x));
    ASSERT_TRUE(y.ok()) << y.status();
    EXPECT_TRUE(IsNegatedRamp(y->output.values<float>()));
    EXPECT_FALSE(client->AllocateTensor(DType::kFloat32, {kCount, 1}).value().empty());
  }
  EXPECT_EQ(SharedCalls(), 0);
  ASSERT_EQ(warnings().size(), 1U);
  EXPECT_THAT(warnings()[0], HasSubstr("takes no shared memory"));
}

INSTANTIATE_TEST_SUITE_P(
    All, RefusalTest,
    ::testing::Values(Refusal{"Off", {grpc::StatusCode::FAILED_PRECONDITION, "off"}, grpc::Status::OK, true},
                      Refusal{"OlderServer", grpc::Status::OK, grpc::Status::OK, false},
                      Refusal{"OtherUser", grpc::Status::OK, {grpc::StatusCode::PERMISSION_DENIED, "no"}, true},
                      Refusal{"OtherHost", grpc::Status::OK, {grpc::StatusCode::NOT_FOUND, "no such object"}, true}),
    [](const auto& tested) { return tested.param.name; });

TEST_F(SharedMemoryTest, AFullServerIsNoRefusal) {
  memory_.register_status = {grpc::StatusCode::RESOURCE_EXHAUSTED, "full"};
  internal::handover::Give();
  const auto client = MakeClient();
  const std::vector<float> x = Ramp();
  ASSERT_TRUE(client->Infer("a", ViewOf(x)).ok());
  EXPECT_EQ(SharedCalls(), 0);
  EXPECT_THAT(warnings(), ElementsAre());
}

TEST_F(SharedMemoryTest, ASessionThatEndsIsOpenedAgain) {
  const auto client = MakeClient();
  const std::vector<float> x = Ramp();
  Tensor kept = client->Infer("a", ViewOf(x)).value().output;
  memory_.EndSessions();
  // The client may not have noticed yet: then the call is told that there is no such region, and goes another way.
  for (int i = 0; i < 1000 && memory_.sessions() < 2; ++i) {
    const auto y = client->Infer("a", ViewOf(x));
    ASSERT_TRUE(y.ok()) << y.status();
    EXPECT_TRUE(IsNegatedRamp(y->output.values<float>()));
  }
  EXPECT_EQ(memory_.sessions(), 2);
  const int before = SharedCalls();
  // A tensor from the old session is sent by way of a new region.
  const auto y = client->Infer("a", kept.view());
  ASSERT_TRUE(y.ok()) << y.status();
  EXPECT_EQ(y->output.values<float>()[1], 2);
  EXPECT_EQ(SharedCalls(), before + 1);
  EXPECT_THAT(warnings(), ElementsAre());
}

TEST_F(SharedMemoryTest, ARegionThatTheServerDoesNotKnowIsNoError) {
  const auto client = MakeClient();
  const std::vector<float> x = Ramp();
  ASSERT_TRUE(client->Infer("a", ViewOf(x)).ok());
  memory_.ForgetRegions();
  const auto y = client->Infer("a", ViewOf(x));
  ASSERT_TRUE(y.ok()) << y.status();
  EXPECT_TRUE(IsNegatedRamp(y->output.values<float>()));
  const auto requests = server_.infer.requests();
  ASSERT_EQ(requests.size(), 3U);
  EXPECT_TRUE(requests[1].x().has_shared_memory());
  EXPECT_FALSE(requests[2].x().has_shared_memory());
}

TEST_F(SharedMemoryTest, ALostRegionIsReplaced) {
  const auto client = MakeClient();
  const std::vector<float> x = Ramp();
  fail_shared_ = true;
  const auto y = client->Infer("a", ViewOf(x));
  ASSERT_TRUE(y.ok()) << y.status();
  EXPECT_TRUE(IsNegatedRamp(y->output.values<float>()));
  memory_.WaitForRegions(0);
  fail_shared_ = false;
  ASSERT_TRUE(client->Infer("a", ViewOf(x)).ok());
  EXPECT_EQ(memory_.all().size(), 4U);
}

TEST_F(SharedMemoryTest, OtherErrorsAreTheServers) {
  server_.infer = [](auto*, const auto&, auto*) { return grpc::Status(grpc::StatusCode::NOT_FOUND, "layer 'a'"); };
  const auto client = MakeClient();
  const std::vector<float> x = Ramp();
  EXPECT_EQ(client->Infer("a", ViewOf(x)).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(server_.infer.requests().size(), 2U) << "the second time not about a region";
}

TEST_F(SharedMemoryTest, ATimedOutCallKeepsItsRegionsUntilItIsOver) {
  std::promise<void> promise;
  const std::shared_future<void> gate = promise.get_future().share();
  std::promise<void> late;
  server_.train_step = [&, gate](auto*, const v1::TrainStepRequest& request, v1::TrainStepResponse*) {
    memory_.SetBusy(request.x().shared_memory().region(), true);
    memory_.SetBusy(request.y_shared_memory().region(), true);
    gate.wait();
    // The server was slow, and writes only now.
    std::memset(memory_.Find(request.y_shared_memory()), 0x55, kBytes);
    memory_.SetBusy(request.x().shared_memory().region(), false);
    memory_.SetBusy(request.y_shared_memory().region(), false);
    late.set_value();
    return grpc::Status::OK;
  };
  const auto client = MakeClient();
  Tensor x = client->AllocateTensor(DType::kFloat32, {kCount, 1}).value();
  const absl::Span<float> values = x.mutable_values<float>();
  std::iota(values.begin(), values.end(), 1.0F);
  TrainStepOptions options;
  options.timeout = absl::Milliseconds(200);
  EXPECT_EQ(client->TrainStep("a", x.view(), options).status().code(), absl::StatusCode::kDeadlineExceeded);
  memory_.WaitForUnregistering(2);

  // Neither place is lent to anybody: not for the next calls, and not to the tensor's next values.
  const auto y = client->Infer("a", x.view());
  ASSERT_TRUE(y.ok()) << y.status();
  EXPECT_TRUE(IsNegatedRamp(y->output.values<float>()));
  x.mutable_values<float>()[0] = 100;
  EXPECT_EQ(values[0], 1) << "what the call may still read";
  const auto busy = server_.train_step.requests().at(0);
  const auto next = server_.infer.requests().at(0);
  for (const std::string& region : {busy.x().shared_memory().region(), busy.y_shared_memory().region()}) {
    EXPECT_NE(next.x().shared_memory().region(), region);
    EXPECT_NE(next.y_shared_memory().region(), region);
  }
  promise.set_value();
  late.get_future().wait();
  EXPECT_TRUE(IsNegatedRamp(y->output.values<float>()));
  memory_.WaitForRegions(2);
}

TEST_F(SharedMemoryTest, ManyThreadsShareTheRegions) {
  constexpr int kThreads = 4;
  const auto client = MakeClient();
  std::atomic<int> right{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&] {
      const std::vector<float> x = Ramp();
      for (int i = 0; i < 20; ++i) {
        const auto y = client->Infer("a", ViewOf(x));
        if (y.ok() && IsNegatedRamp(y->output.values<float>())) ++right;
        if (i == 10) memory_.EndSessions();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(right, kThreads * 20);
}

}  // namespace
}  // namespace normd
