// How a program that connects by itself is tested with FakeServer: what goes wrong on the way, and what comes of it.

#include "normd/testing/fake_server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "normd/client.h"
#include "normd/running_normalizer.h"

namespace {

using ::testing::_;
using ::testing::ElementsAre;
using ::testing::MockFunction;

class FakeServerTest : public ::testing::Test {
 protected:
  FakeServerTest() {
    normd::LayerSpec spec;
    spec.name = "a";
    spec.config.num_channels = 1;
    EXPECT_TRUE(client_->CreateLayer(spec).ok());
  }

  static normd::ClientOptions Impatient() {
    normd::ClientOptions options;
    options.retry.initial_backoff = absl::Milliseconds(1);
    return options;
  }
  absl::StatusOr<normd::TrainStepResult> Train() { return client_->TrainStep("a", normd::TensorView(x_, {2, 1})); }
  normd::LayerState State() { return *client_->GetLayer("a", /*with_state=*/true)->state; }

  normd::testing::FakeServer server_;
  std::unique_ptr<normd::Client> client_ = normd::Client::Connect(server_.target(), Impatient());
  const std::vector<float> x_ = {1, 3};  // Mean 2, variance 1.
};

TEST_F(FakeServerTest, FailsAsOftenAsAskedAndThenWorks) {
  server_.train_step.FailNext(absl::UnavailableError("draining"), 2);
  const auto step = Train();
  ASSERT_TRUE(step.ok()) << step.status();
  EXPECT_FALSE(step->replayed);
  EXPECT_THAT(step->batch_mean, ElementsAre(2));
  const auto requests = server_.train_step.requests();
  ASSERT_EQ(requests.size(), 3u);
  EXPECT_EQ(requests[0].request_id(), requests[2].request_id());
  EXPECT_EQ(State().num_batches_tracked, 1);
}

TEST_F(FakeServerTest, ALostAnswerIsRecognisedWhenTheCallComesAgain) {
  server_.train_step.LoseNextAnswers();
  const auto step = Train();
  ASSERT_TRUE(step.ok()) << step.status();
  EXPECT_TRUE(step->replayed);
  EXPECT_EQ(step->version, 2);
  EXPECT_EQ(State().num_batches_tracked, 1);
}

TEST_F(FakeServerTest, FailuresComeInTheirOrder) {
  server_.infer.FailNext(absl::InvalidArgumentError("first"));
  server_.infer.FailNext(absl::DataLossError("second"));
  const normd::TensorView x(x_, {2, 1});
  EXPECT_EQ(client_->Infer("a", x).status().message(), "first");
  EXPECT_EQ(client_->Infer("a", x).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(client_->Infer("a", x).ok());
}

TEST_F(FakeServerTest, AnswersWhatATestSays) {
  MockFunction<grpc::Status(grpc::ServerContext*, const normd::v1::GetLayerRequest&, normd::v1::GetLayerResponse*)>
      get_layer;
  EXPECT_CALL(get_layer, Call(_, _, _))
      .WillOnce(
          [](grpc::ServerContext*, const normd::v1::GetLayerRequest& request, normd::v1::GetLayerResponse* response) {
            response->mutable_layer()->set_name(request.name());
            response->mutable_layer()->set_version(1234);
            return grpc::Status::OK;
          });
  server_.get_layer = get_layer.AsStdFunction();
  EXPECT_EQ(client_->GetLayer("a")->version, 1234);
  server_.get_layer = nullptr;
  EXPECT_EQ(client_->GetLayer("a")->version, 1);
}

TEST_F(FakeServerTest, ServesAStreamOfSteps) {
  server_.train_step.FailNext(absl::ResourceExhaustedError("busy"));
  std::vector<absl::Status> statuses;
  std::vector<int64_t> versions;
  const auto stream = client_->OpenSteps();
  for (int i = 0; i < 3; ++i) {
    stream->TrainStep("a", normd::TensorView(x_, {2, 1}), {}, [&](absl::StatusOr<normd::TrainStepResult> result) {
      statuses.push_back(result.status());
      versions.push_back(result.ok() ? result->version : 0);
    });
  }
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(statuses[0].code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(versions, ElementsAre(0, 2, 3));
}

TEST_F(FakeServerTest, ServesARunningNormalizerWhosePushIsLost) {
  const auto normalizer = normd::RunningNormalizer::Open(client_.get(), "obs", 2);
  ASSERT_TRUE(normalizer.ok()) << normalizer.status();
  ASSERT_TRUE((*normalizer)->Observe(std::vector<float>{1, 10, 3, 30}).ok());
  server_.merge_moments.LoseNextAnswers();
  ASSERT_TRUE((*normalizer)->Flush().ok());
  const auto statistics = (*normalizer)->statistics();
  EXPECT_EQ(statistics->count, 2);
  EXPECT_THAT(statistics->mean, ElementsAre(2, 20));
  EXPECT_THAT(statistics->var, ElementsAre(1, 100));
}

TEST_F(FakeServerTest, WhatItDoesNotHaveIsUnimplemented) {
  EXPECT_TRUE(absl::IsUnimplemented(client_->CreateSnapshot("s").status()));
  EXPECT_TRUE(absl::IsUnimplemented(client_->ForkLayer("a", "b").status()));
  EXPECT_TRUE(absl::IsUnimplemented(client_->GetStatistics().status()));
  normd::LayerSpec spec;
  spec.name = "skips";
  spec.config.num_channels = 1;
  spec.config.non_finite_policy = normd::NonFinitePolicy::kSkipChannel;
  EXPECT_TRUE(absl::IsUnimplemented(client_->CreateLayer(spec).status()));
}

}  // namespace
