#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "normd/client.h"
#include "tests/integration/captured_log.h"
#include "tests/integration/test_server.h"
#include "tests/status_matchers.h"

// The SDK against the real server.
namespace normd {
namespace {

using ::testing::AllOf;
using ::testing::DoubleNear;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::Pointwise;
using tests::IsOk;
using tests::StatusIs;

class ServerTest : public ::testing::Test {
 protected:
  void Create(const std::string& name, int64_t num_channels, const std::string& preset = "") {
    LayerSpec spec;
    spec.name = name;
    spec.preset = preset;
    spec.config.num_channels = num_channels;
    ASSERT_THAT(client_->CreateLayer(spec), IsOk());
  }

  tests::TestServer server_;
  std::unique_ptr<Client> client_ = Client::Connect(server_.address());
};

TEST_F(ServerTest, TrainsInfersAndGoesBack) {
  Create("a", 1);
  const std::vector<double> x = {1, 2, 3, 6};  // Mean 3, population variance 3.5.
  const TensorView view(absl::MakeConstSpan(x), {4, 1});
  const auto step = client_->TrainStep("a", view);
  ASSERT_THAT(step, IsOk());
  EXPECT_THAT(step->batch_mean, ElementsAre(3));
  EXPECT_THAT(step->batch_var, ElementsAre(3.5));
  const double inv_std = 1 / std::sqrt(3.5 + 1e-5);
  EXPECT_THAT(step->y.values<double>(), Pointwise(DoubleNear(1e-12), {-2 * inv_std, -inv_std, 0.0, 3 * inv_std}));

  // Preset reference: 0.9 of the old and 0.1 of the new.
  const auto inferred = client_->Infer("a", view);
  ASSERT_THAT(inferred, IsOk());
  EXPECT_NEAR(inferred->output.values<double>()[3], (6 - 0.3) / std::sqrt(1.25 + 1e-5), 1e-12);
  EXPECT_EQ(inferred->version, step->version);
  EXPECT_EQ(inferred->content_hash, step->content_hash);
  const auto back = client_->Denormalize("a", inferred->output.view());
  ASSERT_THAT(back, IsOk());
  EXPECT_THAT(back->output.values<double>(), Pointwise(DoubleNear(1e-12), x));

  // Two values -d and d in a channel: dx of a constant dy is 0, dbeta its sum, dgamma 0.
  BackwardOptions options;
  options.batch_mean = step->batch_mean;
  options.batch_var = step->batch_var;
  options.optimizer = Sgd{.learning_rate = 0.5};
  const std::vector<double> dy = {1, 1, 1, 1};
  const auto gradients = client_->Backward("a", view, TensorView(absl::MakeConstSpan(dy), {4, 1}), options);
  ASSERT_THAT(gradients, IsOk());
  EXPECT_THAT(gradients->dx.values<double>(), Pointwise(DoubleNear(1e-12), {0.0, 0.0, 0.0, 0.0}));
  EXPECT_THAT(gradients->dbeta, ElementsAre(4));
  EXPECT_THAT(gradients->dgamma, ElementsAre(DoubleNear(0, 1e-12)));
  EXPECT_THAT(gradients->beta, ElementsAre(-2)) << "0 - 0.5 * 4";
}

TEST_F(ServerTest, ErrorsAreTheServers) {
  const std::vector<float> x = {1, 2};
  const TensorView view(absl::MakeConstSpan(x), {1, 2});
  EXPECT_THAT(client_->Infer("nobody", view), StatusIs(absl::StatusCode::kNotFound, "nobody"));
  Create("a", 3);
  EXPECT_THAT(client_->Infer("a", view), StatusIs(absl::StatusCode::kInvalidArgument, "layer 'a'"));
  LayerSpec spec;
  spec.name = "a";
  spec.config.num_channels = 3;
  EXPECT_THAT(client_->CreateLayer(spec), StatusIs(absl::StatusCode::kAlreadyExists, "a"));
  spec.config.eps = 1e-3;
  EXPECT_THAT(client_->UpdateLayer("a", spec.config, {"eps"}, "stale"), StatusIs(absl::StatusCode::kAborted));
}

TEST_F(ServerTest, MergedMomentsAreATrainStep) {
  const struct {
    const char* name;
    std::vector<int64_t> shape;
    Layout layout;
    int64_t num_channels;
  } cases[] = {
      {"rows", {3, 2}, Layout::kChannelsFirst, 2},
      {"images", {9, 5, 31, 30}, Layout::kChannelsFirst, 5},
      {"channels-last", {9, 31, 30, 5}, Layout::kChannelsLast, 5},
      {"wide", {1234, 300}, Layout::kChannelsFirst, 300},
      {"few-points", {1000, 7, 3}, Layout::kChannelsFirst, 7},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.name);
    const std::string trained_layer = std::string(c.name) + ".trained";
    const std::string merged_layer = std::string(c.name) + ".merged";
    Create(trained_layer, c.num_channels, "pytorch");
    Create(merged_layer, c.num_channels, "pytorch");
    int64_t size = 1;
    for (const int64_t extent : c.shape) size *= extent;
    const std::vector<double> values = tests::SomeValues(size);
    const std::vector<float> x(values.begin(), values.end());
    const TensorView view(absl::MakeConstSpan(x), c.shape, c.layout);
    const auto step = client_->TrainStep(trained_layer, view);
    ASSERT_THAT(step, IsOk());
    const auto moments = ComputeMoments(view);
    ASSERT_THAT(moments, IsOk());
    EXPECT_EQ(moments->mean, step->batch_mean);
    const auto merged = client_->MergeMoments(merged_layer, *moments);
    ASSERT_THAT(merged, IsOk());
    const auto trained = client_->GetLayer(trained_layer, true);
    ASSERT_THAT(trained, IsOk());
    EXPECT_EQ(merged->running_mean, trained->state->running_mean);
    EXPECT_EQ(merged->running_var, trained->state->running_var);
    EXPECT_EQ(merged->sample_count, trained->state->sample_count);
    EXPECT_EQ(merged->num_batches_tracked, 1);
    EXPECT_FALSE(merged->replayed);
    const auto layer = client_->GetLayer(merged_layer);
    ASSERT_THAT(layer, IsOk());
    EXPECT_EQ(layer->version, merged->version);
    EXPECT_EQ(layer->content_hash, merged->content_hash);
    for (size_t channel = 0; channel < step->batch_var.size(); ++channel) {
      EXPECT_EQ(moments->m2[channel] / static_cast<double>(moments->count[channel]), step->batch_var[channel]);
    }
  }
}

TEST_F(ServerTest, ManyContributorsThatRepeatThemselvesAreOnePass) {
  constexpr int kContributors = 5;
  constexpr int kMerges = 20;
  constexpr int64_t kRows = 3;
  Create("obs", 2, "rl_observation");
  const std::vector<double> all = tests::SomeValues(kContributors * kMerges * kRows * 2);
  std::vector<std::thread> threads;
  for (int t = 0; t < kContributors; ++t) {
    threads.emplace_back([&, t] {
      MergeMomentsOptions options;
      options.contributor = "actor-" + std::to_string(t);
      for (int i = 0; i < kMerges; ++i) {
        const auto part = absl::MakeConstSpan(all).subspan((t * kMerges + i) * kRows * 2, kRows * 2);
        options.sequence = i + 1;
        for (const bool again : {false, true}) {
          const auto merged = client_->MergeMoments("obs", *ComputeMoments(TensorView(part, {kRows, 2})), options);
          ASSERT_THAT(merged, IsOk());
          EXPECT_EQ(merged->replayed, again);
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const auto layer = client_->GetLayer("obs", true);
  ASSERT_THAT(layer, IsOk());
  for (size_t c = 0; c < 2; ++c) {
    long double sum = 0;
    long double squares = 0;
    for (size_t i = c; i < all.size(); i += 2) sum += all[i];
    const long double mean = sum / (all.size() / 2);
    for (size_t i = c; i < all.size(); i += 2) squares += (all[i] - mean) * (all[i] - mean);
    EXPECT_EQ(layer->state->sample_count[c], kContributors * kMerges * kRows);
    EXPECT_NEAR(layer->state->running_mean[c], static_cast<double>(mean), 1e-12);
    EXPECT_NEAR(layer->state->running_var[c], static_cast<double>(squares / (all.size() / 2)), 1e-12);
  }
}

TEST_F(ServerTest, ARepeatedRequestIdFoldsOnce) {
  Create("a", 1);
  const std::vector<float> x = {1, 2, 3};
  TrainStepOptions options;
  options.request_id = "step-1";
  for (const bool replayed : {false, true, true}) {
    const auto step = client_->TrainStep("a", TensorView(absl::MakeConstSpan(x), {3, 1}), options);
    ASSERT_THAT(step, IsOk());
    EXPECT_EQ(step->replayed, replayed);
    EXPECT_EQ(step->num_batches_tracked, 1);
  }
}

TEST_F(ServerTest, NoStepIsLostAmongThreads) {
  Create("a", 1, "standard_scaler");
  constexpr int kThreads = 4;
  constexpr int kSteps = 25;
  std::atomic<int> done{0};
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kSteps; ++i) {
        const std::vector<double> x = {t * 100.0 + i, t * 100.0 + i + 0.5};
        client_->TrainStepAsync("a", TensorView(absl::MakeConstSpan(x), {2, 1}), {}, [&](const auto& result) {
          EXPECT_THAT(result, IsOk());
          ++done;
        });
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  client_.reset();
  EXPECT_EQ(done, kThreads * kSteps);
  // The mean of every value that was sent: 150 of the threads, 12 of the steps, 0.25 of the pairs.
  const auto layer = Client::Connect(server_.address())->GetLayer("a", true);
  ASSERT_THAT(layer, IsOk());
  EXPECT_EQ(layer->state->num_batches_tracked, kThreads * kSteps);
  EXPECT_THAT(layer->state->sample_count, ElementsAre(2 * kThreads * kSteps));
  EXPECT_NEAR(layer->state->running_mean[0], 162.25, 1e-9);
}

TEST_F(ServerTest, SaysWhetherItServes) {
  EXPECT_EQ(client_->Health().value(), ServingStatus::kServing);
  EXPECT_EQ(client_->Health("normd.v1.NormalizationService").value(), ServingStatus::kServing);
}

TEST_F(ServerTest, TellsWhatItDoesAndChangesWhatItLogs) {
  Create("a", 1);
  const auto statistics = client_->GetStatistics();
  ASSERT_THAT(statistics, IsOk());
  EXPECT_EQ(statistics->num_layers, 1);
  ASSERT_EQ(statistics->methods.size(), 1);
  EXPECT_EQ(statistics->methods[0].method, "CreateLayer");
  EXPECT_EQ(statistics->methods[0].codes.at(0).count, 1);
  EXPECT_THAT(client_->GetStatistics(-1), StatusIs(absl::StatusCode::kInvalidArgument, "max_layers is -1"));
  EXPECT_EQ(client_->SetLogLevel(LogLevel::kError).value(), LogLevel::kDebug);
  EXPECT_EQ(client_->GetLogLevel().value(), LogLevel::kError);
}

TEST(ServerLog, NamesTheTraceThatACallCarries) {
  const auto log = std::make_shared<tests::CapturedLog>();
  tests::TestServer server(tests::TestOptions(), log);
  const std::unique_ptr<Client> client = Client::Connect(server.address());
  server.Create("a", 1);
  const std::vector<double> x = {1, 2, 3, 6};
  const TensorView view(absl::MakeConstSpan(x), {4, 1});
  const std::string traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
  const char* const logged = "trace_id=4bf92f3577b34da6a3ce929d0e0e4736 span_id=00f067aa0ba902b7";
  InferOptions options;
  options.traceparent = traceparent;
  ASSERT_THAT(client->Infer("a", view, options), IsOk());
  EXPECT_THAT(log->Text(), HasSubstr(logged));
  log->Clear();
  std::promise<absl::Status> done;
  client->InferAsync("a", view, options, [&](const auto& result) { done.set_value(result.status()); });
  ASSERT_THAT(done.get_future().get(), IsOk());
  EXPECT_THAT(log->Text(), HasSubstr(logged));
  log->Clear();
  // gRPC ends a process that wants to send such a header.
  options.traceparent = traceparent + "\n";
  ASSERT_THAT(client->Infer("a", view, options), IsOk());
  EXPECT_THAT(log->Text(), AllOf(HasSubstr("method=Infer"), Not(HasSubstr("trace_id"))));
}

}  // namespace
}  // namespace normd
