#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "normd/client.h"
#include "tests/integration/test_server.h"
#include "tests/status_matchers.h"

// Every way that the SDK has to carry a tensor, against the real server: the same numbers, whichever it is.
namespace normd {
namespace {

using tests::IsOk;

constexpr int64_t kRows = 20'000;
constexpr int64_t kChannels = 8;

app::ServerOptions WithSharedMemory(bool enabled) {
  app::ServerOptions options = tests::TestOptions();
  options.shared_memory = enabled;
  return options;
}

// Channel c holds c + row / 1000, in (N, C).
std::vector<float> Rows() {
  std::vector<float> x(kRows * kChannels);
  for (int64_t n = 0; n < kRows; ++n) {
    for (int64_t c = 0; c < kChannels; ++c) {
      x[static_cast<std::size_t>(n * kChannels + c)] = static_cast<float>(c) + static_cast<float>(n) / 1000;
    }
  }
  return x;
}

// The greatest difference between y and the training output of Rows(), worked out in double.
double WorstError(absl::Span<const float> y) {
  const std::vector<float> x = Rows();
  if (y.size() != x.size()) return std::numeric_limits<double>::infinity();
  double worst = 0;
  for (int64_t c = 0; c < kChannels; ++c) {
    double sum = 0;
    double squares = 0;
    for (int64_t n = 0; n < kRows; ++n) sum += x[n * kChannels + c];
    const double mean = sum / kRows;
    for (int64_t n = 0; n < kRows; ++n) squares += std::pow(x[n * kChannels + c] - mean, 2);
    const double inv_std = 1 / std::sqrt(squares / kRows + 1e-5);
    for (int64_t n = 0; n < kRows; ++n) {
      const double want = (x[n * kChannels + c] - mean) * inv_std;
      worst = std::max(worst, std::abs(y[n * kChannels + c] - want));
    }
  }
  return worst;
}

class TransportServerTest : public ::testing::Test {
 protected:
  explicit TransportServerTest(bool shared_memory = true) : server_(WithSharedMemory(shared_memory)) {
    options_.transport = Transport::kSharedMemory;
    options_.on_warning = [this](absl::string_view) { ++warnings_; };
    client_ = Client::Connect(server_.address(), options_);
    LayerSpec spec;
    spec.name = "a";
    spec.config.num_channels = kChannels;
    const absl::StatusOr<Layer> layer = client_->CreateLayer(spec);
    EXPECT_THAT(layer, IsOk());
  }

  const std::vector<float> x_ = Rows();
  const TensorView view_{absl::MakeConstSpan(x_), {kRows, kChannels}};
  tests::TestServer server_;
  std::atomic<int> warnings_{0};
  ClientOptions options_;
  std::unique_ptr<Client> client_;
};

TEST_F(TransportServerTest, SharedMemoryGivesTheSameBits) {
  TrainStepOptions dry;
  dry.skip_update = true;
  const auto in_band = Client::Connect(server_.address())->TrainStep("a", view_, dry);
  ASSERT_THAT(in_band, IsOk());
  EXPECT_LT(WorstError(in_band->y.values<float>()), 1e-6);
  for (int i = 0; i < 3; ++i) {
    const auto shared = client_->TrainStep("a", view_, dry);
    ASSERT_THAT(shared, IsOk());
    EXPECT_EQ(shared->y.bytes(), in_band->y.bytes());
    EXPECT_EQ(shared->batch_mean, in_band->batch_mean);
  }
  EXPECT_GT(server_.server().shared_memory_bytes(), 2 * static_cast<int64_t>(view_.data.size()));

  // Nothing copied: filled where it is read, read where it was written.
  Tensor x = client_->AllocateTensor(DType::kFloat32, {kRows, kChannels}).value();
  std::memcpy(x.mutable_bytes().data(), x_.data(), view_.data.size());
  const auto y = client_->TrainStep("a", x.view(), dry);
  ASSERT_THAT(y, IsOk());
  EXPECT_EQ(y->y.bytes(), in_band->y.bytes());
  // And the way back, with two tensors in and one out.
  BackwardOptions backward;
  backward.batch_mean = y->batch_mean;
  backward.batch_var = y->batch_var;
  const auto shared_dx = client_->Backward("a", x.view(), y->y.view(), backward);
  const auto dx = Client::Connect(server_.address())->Backward("a", view_, in_band->y.view(), backward);
  ASSERT_THAT(shared_dx, IsOk());
  ASSERT_THAT(dx, IsOk());
  EXPECT_EQ(shared_dx->dx.bytes(), dx->dx.bytes());
  EXPECT_EQ(warnings_, 0);
}

TEST_F(TransportServerTest, ErrorsAreTheServers) {
  EXPECT_THAT(client_->Infer("nobody", view_), tests::StatusIs(absl::StatusCode::kNotFound, "nobody"));
  EXPECT_THAT(client_->Infer("a", {absl::MakeConstSpan(x_), {kRows * 2, kChannels / 2}}),
              tests::StatusIs(absl::StatusCode::kInvalidArgument, "layer 'a'"));
  EXPECT_THAT(client_->Infer("a", view_), IsOk());
  EXPECT_EQ(warnings_, 0);
}

class NoSharedMemoryTest : public TransportServerTest {
 protected:
  NoSharedMemoryTest() : TransportServerTest(false) {}
};

TEST_F(NoSharedMemoryTest, FallsBackWithOneWarning) {
  for (int i = 0; i < 3; ++i) {
    const auto step = client_->TrainStep("a", view_);
    ASSERT_THAT(step, IsOk());
    EXPECT_LT(WorstError(step->y.values<float>()), 1e-6);
  }
  EXPECT_EQ(warnings_, 1);
}

TEST_F(TransportServerTest, AStreamOfStepsTrains) {
  const auto stream = client_->OpenSteps({.timeout = {}, .max_in_flight = 4});
  int64_t version = 0;
  for (int i = 0; i < 10; ++i) {
    stream->TrainStep("a", view_, {}, [&](const auto& step) {
      ASSERT_THAT(step, IsOk());
      EXPECT_LT(WorstError(step->y.template values<float>()), 1e-6);
      EXPECT_GT(step->version, version);
      version = step->version;
    });
  }
  stream->Infer("nobody", view_, {}, [](const auto& result) {
    EXPECT_THAT(result, tests::StatusIs(absl::StatusCode::kNotFound, "nobody"));
  });
  EXPECT_THAT(stream->Finish(), IsOk());
  EXPECT_EQ(client_->GetLayer("a", true)->state->num_batches_tracked, 10);
}

TEST_F(TransportServerTest, ChunksGiveWhatTheWholeDoes) {
  ChunkedTensor x;
  x.shape = {kRows, kChannels};
  x.chunk_bytes = 100'000;
  const ChunkSource source = [this](int64_t offset, absl::Span<char> chunk) {
    std::memcpy(chunk.data(), reinterpret_cast<const char*>(x_.data()) + offset, chunk.size());
    return absl::OkStatus();
  };
  std::vector<float> y(x_.size());
  const ChunkSink sink = [&y](int64_t offset, absl::Span<const char> chunk) {
    std::memcpy(reinterpret_cast<char*>(y.data()) + offset, chunk.data(), chunk.size());
    return absl::OkStatus();
  };
  const auto step = client_->TrainStepChunked("a", x, source, sink);
  ASSERT_THAT(step, IsOk());
  EXPECT_LT(WorstError(y), 1e-6);
  EXPECT_EQ(step->num_batches_tracked, 1);
  const auto silent = client_->TrainStepChunked("a", x, source, nullptr);
  ASSERT_THAT(silent, IsOk());
  EXPECT_EQ(silent->num_batches_tracked, 2);

  const auto whole = client_->Infer("a", view_);
  ASSERT_THAT(whole, IsOk());
  const auto chunked = client_->InferChunked("a", x, source, sink);
  ASSERT_THAT(chunked, IsOk());
  EXPECT_EQ(chunked->version, whole->version);
  EXPECT_EQ(absl::MakeConstSpan(y), whole->output.values<float>());
}

}  // namespace
}  // namespace normd
