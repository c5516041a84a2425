#include "normd/stream.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <future>
#include <memory>
#include <mutex>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "client/cpp/src/handover.h"
#include "normd/client.h"
#include "normd/testing/fake_server.h"
#include "normd/v1/normalization_service.grpc.pb.h"
#include "tests/client/negated.h"

namespace normd {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using testing::FakeServer;
using ::testing::HasSubstr;
using tests::Negated;

using StepsServerStream = grpc::ServerReaderWriter<v1::StepsResponse, v1::StepsRequest>;

// Answers a call with its own tensor; a layer named by a number fails with that code.
v1::StepsResponse Echo(const v1::StepsRequest& request) {
  v1::StepsResponse response;
  response.set_id(request.id());
  switch (request.call_case()) {
    case v1::StepsRequest::kTrainStep:
      response.mutable_train_step()->set_version(request.id());
      *response.mutable_train_step()->mutable_y() = request.train_step().x();
      break;
    case v1::StepsRequest::kInfer: {
      const int code = std::atoi(request.infer().layer().c_str());
      if (code != 0) {
        response.mutable_status()->set_code(code);
        response.mutable_status()->set_message("no");
        if (code == grpc::StatusCode::RESOURCE_EXHAUSTED)
          response.mutable_status()->mutable_retry_delay()->set_seconds(3);
        break;
      }
      response.mutable_infer()->set_version(request.infer().version());
      *response.mutable_infer()->mutable_y() = request.infer().x();
      break;
    }
    case v1::StepsRequest::kDenormalize:
      *response.mutable_denormalize()->mutable_x() = request.denormalize().y();
      break;
    default:
      *response.mutable_backward()->mutable_dx() = request.backward().dy();
  }
  return response;
}

class StepStreamTest : public ::testing::Test {
 protected:
  void ServeEcho() {
    server_.steps = [](grpc::ServerContext*, StepsServerStream* stream) {
      v1::StepsRequest request;
      while (stream->Read(&request)) stream->Write(Echo(request));
      return grpc::Status::OK;
    };
    internal::handover::Give();
  }

  FakeServer server_;
  std::unique_ptr<Client> client_ = Client::Connect(server_.target());
  const std::vector<float> x_ = {1, 2, 3, 4};
  const TensorView view_{absl::MakeConstSpan(x_), {2, 2}};
};

TEST_F(StepStreamTest, AnswersComeInTheOrderOfTheCalls) {
  ServeEcho();
  const auto stream = client_->OpenSteps({.timeout = {}, .max_in_flight = 3});
  std::vector<float> got;
  for (int i = 0; i < 100; ++i) {
    // Above what is copied into one slice, now and then.
    const std::vector<float> x(i % 10 == 0 ? 20'000 : 2, static_cast<float>(i));
    stream->Infer("a", {absl::MakeConstSpan(x), {static_cast<int64_t>(x.size()), 1}}, {{}, i}, [&, i](auto result) {
      ASSERT_TRUE(result.ok()) << result.status();
      EXPECT_EQ(result->version, i);
      got.push_back(result->output.template values<float>().back());
    });
  }
  EXPECT_TRUE(stream->Finish().ok());
  std::vector<float> want(100);
  std::iota(want.begin(), want.end(), 0.0F);
  EXPECT_EQ(got, want);
}

TEST_F(StepStreamTest, CarriesEveryMethodAndWritesInto) {
  ServeEcho();
  const auto stream = client_->OpenSteps();
  std::vector<float> into(4);
  int done = 0;
  TrainStepOptions train;
  train.into = {reinterpret_cast<char*>(into.data()), 16};
  stream->TrainStep("a", view_, train, [&](auto result) {
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_TRUE(result->y.empty());
    EXPECT_EQ(into, x_);
    ++done;
  });
  stream->Denormalize("a", view_, {}, [&](auto result) {
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_THAT(result->output.template values<float>(), ElementsAre(1, 2, 3, 4));
    ++done;
  });
  const std::vector<float> dy = {5, 6, 7, 8};
  stream->Backward("a", view_, {absl::MakeConstSpan(dy), {2, 2}}, {}, [&](auto result) {
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_THAT(result->dx.template values<float>(), ElementsAre(5, 6, 7, 8));
    ++done;
  });
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(done, 3);
}

TEST_F(StepStreamTest, ACallThatFailsEndsItselfAndNotTheStream) {
  ServeEcho();
  const auto stream = client_->OpenSteps();
  std::vector<absl::Status> statuses;
  const auto keep = [&](const absl::StatusOr<InferResult>& result) { statuses.push_back(result.status()); };
  for (const char* layer : {"5", "a", "8", "a"}) stream->Infer(layer, view_, {}, keep);
  EXPECT_TRUE(stream->Finish().ok());
  ASSERT_EQ(statuses.size(), 4U);
  EXPECT_EQ(statuses[0], absl::NotFoundError("no"));
  EXPECT_TRUE(statuses[1].ok());
  EXPECT_EQ(statuses[2].code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(statuses[2].GetPayload("type.googleapis.com/google.rpc.Status").has_value()) << "when to come back";
  EXPECT_TRUE(statuses[3].ok());
}

TEST_F(StepStreamTest, CallsThatDoNotFitAreNotSent) {
  ServeEcho();
  const auto stream = client_->OpenSteps();
  std::promise<absl::Status> bad;
  stream->Infer("a", {absl::MakeConstSpan(x_), {9}}, {}, [&](const auto& result) { bad.set_value(result.status()); });
  EXPECT_EQ(bad.get_future().get().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(stream->Finish().ok());
  std::promise<absl::Status> late;
  stream->Infer("a", view_, {}, [&](const auto& result) { late.set_value(result.status()); });
  EXPECT_EQ(late.get_future().get().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(StepStreamTest, NoMoreThanTheLimitIsInFlight) {
  std::promise<void> promise;
  const std::shared_future<void> gate = promise.get_future().share();
  std::atomic<int> read{0};
  server_.steps = [&, gate](grpc::ServerContext*, StepsServerStream* stream) {
    v1::StepsRequest request;
    while (stream->Read(&request)) {
      ++read;
      gate.wait();
      stream->Write(Echo(request));
    }
    return grpc::Status::OK;
  };
  internal::handover::Give();
  const auto stream = client_->OpenSteps({.timeout = {}, .max_in_flight = 2});
  std::atomic<int> made{0};
  std::atomic<int> done{0};
  std::thread caller([&] {
    for (int i = 0; i < 5; ++i) {
      stream->Infer("a", view_, {}, [&](const auto& result) {
        EXPECT_TRUE(result.ok());
        EXPECT_LE(made - done, 3) << "two in flight, and one that waits";
        ++done;
      });
      ++made;
    }
  });
  while (made < 2) std::this_thread::yield();
  EXPECT_EQ(done, 0);
  EXPECT_LE(made, 2);
  promise.set_value();
  caller.join();
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(done, 5);
}

TEST_F(StepStreamTest, ACallMayMakeTheNextOne) {
  ServeEcho();
  const auto stream = client_->OpenSteps({.timeout = {}, .max_in_flight = 1});
  std::promise<void> finished;
  std::function<void(int)> step = [&](int left) {
    stream->Infer("a", view_, {}, [&, left](const auto& result) {
      EXPECT_TRUE(result.ok()) << result.status();
      if (left == 0) return finished.set_value();
      step(left - 1);
      // There is one place, and the next call has it.
      stream->Infer("a", view_, {}, [](const auto& more) { EXPECT_TRUE(more.ok()); });
    });
  };
  step(20);
  // Meanwhile somebody else competes for the one place.
  for (int i = 0; i < 20; ++i) stream->Infer("a", view_, {}, [](const auto& result) { EXPECT_TRUE(result.ok()); });
  finished.get_future().get();
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(StepStreamTest, ABrokenStreamEndsEveryCall) {
  std::promise<void> promise;
  const std::shared_future<void> gate = promise.get_future().share();
  server_.steps = [gate](grpc::ServerContext*, StepsServerStream* stream) -> grpc::Status {
    v1::StepsRequest request;
    stream->Read(&request);
    stream->Write(Echo(request));
    gate.wait();
    return {grpc::StatusCode::UNAVAILABLE, "draining"};
  };
  internal::handover::Give();
  const auto stream = client_->OpenSteps();
  std::vector<absl::Status> statuses;
  TrainStepOptions options;
  for (const char* id : {"s1", "s2", "s3"}) {
    options.request_id = id;
    stream->TrainStep("a", view_, options, [&](const auto& result) { statuses.push_back(result.status()); });
  }
  promise.set_value();
  const absl::Status end = stream->Finish();
  EXPECT_EQ(end.code(), absl::StatusCode::kUnavailable);
  ASSERT_EQ(statuses.size(), 3U);
  EXPECT_TRUE(statuses[0].ok());
  for (const int i : {1, 2}) {
    EXPECT_EQ(statuses[i].code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(std::string(statuses[i].message()),
                AllOf(HasSubstr("draining"), HasSubstr("s" + std::to_string(i + 1)), HasSubstr(server_.target())));
  }
  std::promise<absl::Status> later;
  stream->TrainStep("a", view_, options, [&](const auto& result) { later.set_value(result.status()); });
  EXPECT_EQ(later.get_future().get().code(), absl::StatusCode::kUnavailable);
}

TEST_F(StepStreamTest, AnswersThatAreNoAnswersBreakTheStream) {
  server_.steps = [](grpc::ServerContext*, StepsServerStream* stream) {
    v1::StepsRequest request;
    while (stream->Read(&request)) {
      v1::StepsResponse response = Echo(request);
      response.set_id(request.id() + 7);
      stream->Write(response);
    }
    return grpc::Status::OK;
  };
  internal::handover::Give();
  const auto stream = client_->OpenSteps();
  std::promise<absl::Status> status;
  stream->Infer("a", view_, {}, [&](const auto& result) { status.set_value(result.status()); });
  EXPECT_EQ(status.get_future().get().code(), absl::StatusCode::kInternal);
  EXPECT_EQ(stream->Finish().code(), absl::StatusCode::kInternal);
}

TEST_F(StepStreamTest, TheTimeoutAndTheDestructorEndIt) {
  server_.steps = [](grpc::ServerContext* context, StepsServerStream*) {
    while (!context->IsCancelled()) std::this_thread::yield();
    return grpc::Status::OK;
  };
  internal::handover::Give();
  const auto timed = client_->OpenSteps({.timeout = absl::Milliseconds(50)});
  std::promise<absl::Status> status;
  timed->Infer("a", view_, {}, [&](const auto& result) { status.set_value(result.status()); });
  EXPECT_EQ(status.get_future().get().code(), absl::StatusCode::kDeadlineExceeded);

  absl::Status dropped;
  auto stream = client_->OpenSteps();
  stream->Infer("a", view_, {}, [&](const auto& result) { dropped = result.status(); });
  stream.reset();
  EXPECT_EQ(dropped.code(), absl::StatusCode::kCancelled);
}

// Chunks: y = -x.
class ChunkedTest : public ::testing::Test {
 protected:
  using InferStream = grpc::ServerReaderWriter<v1::InferStreamResponse, v1::InferStreamRequest>;
  using TrainStream = grpc::ServerReaderWriter<v1::TrainStepStreamResponse, v1::TrainStepStreamRequest>;

  ChunkedTest() {
    server_.infer_stream = [this](grpc::ServerContext*, InferStream* stream) -> grpc::Status {
      v1::InferStreamRequest request;
      v1::InferRequest call;
      int chunks = 0;
      while (stream->Read(&request)) {
        v1::InferStreamResponse response;
        EXPECT_EQ(request.has_call(), chunks == 0);
        if (chunks == 0) {
          call = request.call();
          if (call.layer() == "nobody") return {grpc::StatusCode::NOT_FOUND, "no layer 'nobody'"};
          response.mutable_result()->set_version(12);
        }
        ++chunks;
        response.set_data(Negated(request.data()));
        if (call.layer() == "short" && chunks == 2) response.mutable_data()->pop_back();
        if (call.layer() == "early" && chunks == 2) return grpc::Status::OK;
        stream->Write(response);
      }
      const std::lock_guard<std::mutex> lock(mutex_);
      call_ = call;
      chunks_ = chunks;
      return grpc::Status::OK;
    };
    server_.train_step_stream = [this](grpc::ServerContext*, TrainStream* stream) -> grpc::Status {
      v1::TrainStepStreamRequest request;
      std::string batch;
      v1::TrainStepRequest call;
      while (batch.size() < kBytes && stream->Read(&request)) {
        if (request.has_call()) call = request.call();
        batch += request.data();
      }
      if (batch.size() < kBytes) return grpc::Status::OK;
      {
        const std::lock_guard<std::mutex> lock(mutex_);
        train_call_ = call;
      }
      // The mean of all values, as a check that they came.
      std::vector<float> values(kCount);
      std::memcpy(values.data(), batch.data(), batch.size());
      v1::TrainStepStreamResponse response;
      response.mutable_result()->add_batch_mean(std::accumulate(values.begin(), values.end(), 0.0) / kCount);
      response.mutable_result()->set_version(2);
      stream->Write(response);
      while (stream->Read(&request)) {
        v1::TrainStepStreamResponse chunk;
        chunk.set_data(Negated(request.data()));
        stream->Write(chunk);
      }
      return grpc::Status::OK;
    };
    internal::handover::Give();
    x_.shape = {kCount, 1};
    x_.chunk_bytes = 100'001;  // No whole number of floats.
  }

  // Not divisible by the chunk either.
  static constexpr int64_t kCount = 260'003;
  static constexpr std::size_t kBytes = kCount * sizeof(float);

  ChunkSource Ramp() {
    return [this](int64_t offset, absl::Span<char> chunk) {
      EXPECT_EQ(offset, source_ % static_cast<int64_t>(kBytes));
      source_ += static_cast<int64_t>(chunk.size());
      most_ahead_ = std::max(most_ahead_, source_ - sunk_);
      for (std::size_t i = 0; i < chunk.size(); i += sizeof(float)) {
        const auto value = static_cast<float>(offset / 4 + static_cast<int64_t>(i / 4) + 1);
        std::memcpy(chunk.data() + i, &value, sizeof(value));
      }
      return absl::OkStatus();
    };
  }
  ChunkSink Check() {
    return [this](int64_t offset, absl::Span<const char> chunk) {
      EXPECT_EQ(offset, sunk_);
      sunk_ += static_cast<int64_t>(chunk.size());
      for (std::size_t i = 0; i < chunk.size(); i += sizeof(float)) {
        float value;
        std::memcpy(&value, chunk.data() + i, sizeof(value));
        if (value != -static_cast<float>(offset / 4 + static_cast<int64_t>(i / 4) + 1)) ++wrong_;
      }
      return absl::OkStatus();
    };
  }

  ChunkedTensor x_;
  // Of the last stream that the server saw to its end. Guarded by mutex_.
  std::mutex mutex_;
  v1::InferRequest call_;
  v1::TrainStepRequest train_call_;
  int chunks_ = 0;
  int64_t source_ = 0;
  int64_t sunk_ = 0;
  int64_t most_ahead_ = 0;
  int wrong_ = 0;
  FakeServer server_;
  std::unique_ptr<Client> client_ = Client::Connect(server_.target());
};

TEST_F(ChunkedTest, InferGoesThroughInChunks) {
  const auto result = client_->InferChunked("a", x_, Ramp(), Check(), {{}, 12});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->version, 12);
  EXPECT_TRUE(result->output.empty());
  EXPECT_THAT(result->output.shape(), ElementsAre(kCount, 1));
  EXPECT_EQ(sunk_, static_cast<int64_t>(kBytes));
  EXPECT_EQ(wrong_, 0);
  const std::lock_guard<std::mutex> lock(mutex_);
  EXPECT_EQ(chunks_, 11);
  EXPECT_EQ(call_.layer(), "a");
  EXPECT_EQ(call_.version(), 12);
  EXPECT_THAT(call_.x().shape(), ElementsAre(kCount, 1));
  EXPECT_TRUE(call_.x().data().empty());
  EXPECT_LE(most_ahead_, 4 * 100'000) << "a few chunks at a time";
}

TEST_F(ChunkedTest, TrainStepReadsTheBatchOnceAndOnceMoreForY) {
  TrainStepOptions options;
  options.gamma = {1};
  options.beta = {2};
  options.request_id = "r";
  const auto result = client_->TrainStepChunked("a", x_, Ramp(), Check(), options);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(result->batch_mean, ElementsAre(::testing::DoubleNear((kCount + 1) / 2.0, 1e-6)));
  EXPECT_EQ(result->version, 2);
  EXPECT_THAT(result->y.shape(), ElementsAre(kCount, 1));
  EXPECT_EQ(source_, 2 * static_cast<int64_t>(kBytes));
  EXPECT_EQ(sunk_, static_cast<int64_t>(kBytes));
  EXPECT_EQ(wrong_, 0);
  const std::lock_guard<std::mutex> lock(mutex_);
  EXPECT_EQ(train_call_.request_id(), "r");
  EXPECT_THAT(train_call_.gamma(), ElementsAre(1));
  EXPECT_FALSE(train_call_.omit_output());
}

TEST_F(ChunkedTest, TrainStepWithoutASinkReadsTheBatchOnce) {
  const auto result = client_->TrainStepChunked("a", x_, Ramp(), nullptr);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(source_, static_cast<int64_t>(kBytes));
  EXPECT_TRUE(result->y.shape().empty());
  const std::lock_guard<std::mutex> lock(mutex_);
  EXPECT_TRUE(train_call_.omit_output());
  EXPECT_FALSE(train_call_.request_id().empty());
}

TEST_F(ChunkedTest, WhateverFailsEndsTheCall) {
  EXPECT_EQ(client_->InferChunked("nobody", x_, Ramp(), Check()).status(), absl::NotFoundError("no layer 'nobody'"));
  source_ = sunk_ = 0;
  EXPECT_EQ(client_->InferChunked("short", x_, Ramp(), Check()).status().code(), absl::StatusCode::kInternal);
  source_ = sunk_ = 0;
  EXPECT_EQ(client_->InferChunked("early", x_, Ramp(), Check()).status().code(), absl::StatusCode::kInternal);

  const ChunkSource no_more = [](int64_t offset, absl::Span<char>) {
    return offset == 0 ? absl::OkStatus() : absl::DataLossError("the disk is gone");
  };
  const ChunkSink full = [](int64_t, absl::Span<const char>) {
    return absl::ResourceExhaustedError("the disk is full");
  };
  EXPECT_EQ(client_->InferChunked("a", x_, no_more, full).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(client_->TrainStepChunked("a", x_, no_more, nullptr).status().code(), absl::StatusCode::kDataLoss);
  source_ = 0;
  EXPECT_EQ(client_->InferChunked("a", x_, Ramp(), full).status(), absl::ResourceExhaustedError("the disk is full"));

  x_.chunk_bytes = 3;
  EXPECT_EQ(client_->InferChunked("a", x_, Ramp(), full).status().code(), absl::StatusCode::kInvalidArgument);
  x_.chunk_bytes = 4;
  x_.shape = {0, 4};
  EXPECT_EQ(client_->InferChunked("a", x_, Ramp(), full).status().code(), absl::StatusCode::kInvalidArgument);
  x_.shape = {-1, 4};
  EXPECT_EQ(client_->TrainStepChunked("a", x_, Ramp(), full).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace normd
