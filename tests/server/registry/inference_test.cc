#include "server/registry/inference.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "tests/server/registry/registry_fixture.h"

namespace normd::registry {
namespace {

using absl::StatusCode;
using tests::IsOk;
using tests::StatusIs;
using tests::View;

class InferenceTest : public tests::RegistryTest {
 protected:
  InferenceTest() {
    MakeLayer("bn", 2);
    layer::StateUpdate state;
    state.running_mean = {10, -3};
    state.running_var = {4, 0.25};
    state.gamma = {2, -1};
    state.beta = {0.5, 100};
    EXPECT_THAT(registry_.SetState("bn", state, 0, ""), IsOk());
  }

  static double Want(int c, double x) {
    constexpr double kMean[] = {10, -3};
    constexpr double kVar[] = {4, 0.25};
    constexpr double kGamma[] = {2, -1};
    constexpr double kBeta[] = {0.5, 100};
    return kGamma[c] * (x - kMean[c]) / std::sqrt(kVar[c] + 1e-5) + kBeta[c];
  }

  const std::vector<double> x_ = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};  // (2, 2, 3)
};

TEST_F(InferenceTest, NormalizesWithTheRunningStatistics) {
  std::vector<double> y(12);
  NORMD_ASSERT_OK_AND_ASSIGN(const auto result, Infer(registry_, "bn", View(x_, {2, 2, 3}), 0, control_, Bytes(&y)));
  for (size_t i = 0; i < 12; ++i) EXPECT_NEAR(y[i], Want(i / 3 % 2, x_[i]), 1e-13);
  EXPECT_EQ(result.version, 2);
  EXPECT_EQ(result.content_hash, Get("bn")->content_hash);
  EXPECT_EQ(Get("bn")->version, 2);

  NORMD_ASSERT_OK(Infer(registry_, "bn", View(x_, {2, 3, 2}, layer::Layout::kChannelsLast), 2, control_, Bytes(&y)));
  for (size_t i = 0; i < 12; ++i) EXPECT_NEAR(y[i], Want(i % 2, x_[i]), 1e-13);
}

TEST_F(InferenceTest, TakesBytesThatAreNotAligned) {
  for (size_t offset = 1; offset < 8; ++offset) {
    std::vector<char> bytes(offset + x_.size() * sizeof(double));
    std::memcpy(bytes.data() + offset, x_.data(), x_.size() * sizeof(double));
    layer::TensorView view = View(x_, {2, 2, 3});
    view.data = absl::MakeConstSpan(bytes).subspan(offset);
    std::vector<double> y(12);
    NORMD_ASSERT_OK(Infer(registry_, "bn", view, 0, control_, Bytes(&y)));
    for (size_t i = 0; i < 12; ++i) EXPECT_NEAR(y[i], Want(i / 3 % 2, x_[i]), 1e-13);
  }
}

TEST_F(InferenceTest, DenormalizeIsTheInverse) {
  std::vector<double> y(12);
  NORMD_ASSERT_OK(Infer(registry_, "bn", View(x_, {2, 2, 3}), 0, control_, Bytes(&y)));
  std::vector<double> back(12);
  NORMD_ASSERT_OK_AND_ASSIGN(const auto result,
                             Denormalize(registry_, "bn", View(y, {2, 2, 3}), 2, control_, Bytes(&back)));
  for (size_t i = 0; i < 12; ++i) EXPECT_NEAR(back[i], x_[i], 1e-12);
  EXPECT_EQ(result.version, 2);
}

TEST_F(InferenceTest, AnEarlierVersionGivesWhatItGaveThen) {
  std::vector<double> before(12);
  NORMD_ASSERT_OK(Infer(registry_, "bn", View(x_, {2, 2, 3}), 2, control_, Bytes(&before)));
  NORMD_ASSERT_OK(registry_.ResetStatistics("bn", 0, ""));
  std::vector<double> after(12);
  NORMD_ASSERT_OK(Infer(registry_, "bn", View(x_, {2, 2, 3}), 0, control_, Bytes(&after)));
  EXPECT_NE(after, before);
  NORMD_ASSERT_OK_AND_ASSIGN(const auto pinned,
                             Infer(registry_, "bn", View(x_, {2, 2, 3}), 2, control_, Bytes(&after)));
  EXPECT_EQ(after, before);
  EXPECT_EQ(pinned.version, 2);
  std::vector<double> back(12);
  NORMD_ASSERT_OK(Denormalize(registry_, "bn", View(after, {2, 2, 3}), 2, control_, Bytes(&back)));
  for (size_t i = 0; i < 12; ++i) EXPECT_NEAR(back[i], x_[i], 1e-12);
}

TEST_F(InferenceTest, WithoutRunningStatisticsItUsesThoseOfTheInput) {
  MakeLayer("untracked", 2, "reference", [](layer::LayerConfig& c) { c.track_running_stats = false; });
  const std::vector<double> x = {1, 10, 3, 30};
  std::vector<double> y(4);
  NORMD_ASSERT_OK(Infer(registry_, "untracked", View(x, {2, 2}), 0, control_, Bytes(&y)));
  EXPECT_NEAR(y[0], -1 / std::sqrt(1 + 1e-5), 1e-14);
  EXPECT_NEAR(y[3], 10 / std::sqrt(100 + 1e-5), 1e-14);
  EXPECT_THAT(Denormalize(registry_, "untracked", View(x, {2, 2}), 0, control_, Bytes(&y)),
              StatusIs(StatusCode::kFailedPrecondition, "layer 'untracked': keeps no running statistics"));
}

TEST_F(InferenceTest, BoundsXHatAndPassesNanThrough) {
  MakeLayer("clipped", 1, "reference", [](layer::LayerConfig& c) { c.clip = 2; });
  const std::vector<float> x = {-100, 0.5, 100, std::numeric_limits<float>::quiet_NaN()};
  std::vector<float> y(4);
  NORMD_ASSERT_OK(Infer(registry_, "clipped", View(x, {4, 1}), 0, control_, Bytes(&y)));
  EXPECT_EQ(y[0], -2);
  EXPECT_NEAR(y[1], 0.5, 1e-5);
  EXPECT_EQ(y[2], 2);
  EXPECT_TRUE(std::isnan(y[3]));
}

TEST_F(InferenceTest, RefusesWhatDoesNotFit) {
  std::vector<double> y(12, -7);
  const auto infer = [&](const std::string& name, std::vector<int64_t> shape, int64_t version) {
    return Infer(registry_, name, View(x_, std::move(shape)), version, control_, Bytes(&y));
  };
  EXPECT_THAT(infer("bn2", {2, 2, 3}, 0), StatusIs(StatusCode::kNotFound, "layer 'bn2': does not exist"));
  EXPECT_THAT(infer("bn", {4, 3}, 0), StatusIs(StatusCode::kInvalidArgument, "layer 'bn': x has 3 channels, want 2"));
  EXPECT_THAT(infer("bn", {5, 2}, 0), StatusIs(StatusCode::kInvalidArgument, "x has 96 bytes of data, want 80"));
  EXPECT_THAT(infer("bn", {2, 2, 3}, 3),
              StatusIs(StatusCode::kFailedPrecondition, "layer 'bn': is at version 2, want 3"));
  EXPECT_THAT(infer("bn", {2, 2, 3}, -1), StatusIs(StatusCode::kInvalidArgument, "version is -1, want >= 0"));
  EXPECT_THAT(Denormalize(registry_, "bn", View(x_, {4, 3}), 0, control_, Bytes(&y)),
              StatusIs(StatusCode::kInvalidArgument, "layer 'bn': y has 3 channels, want 2"));
  EXPECT_EQ(y, std::vector<double>(12, -7));
}

TEST_F(InferenceTest, AGammaOfZeroHasNoInverse) {
  layer::StateUpdate state;
  state.gamma = {1, 0};
  state.beta = {0, 0};
  NORMD_ASSERT_OK(registry_.SetState("bn", state, 0, ""));
  std::vector<double> y(12);
  EXPECT_THAT(Denormalize(registry_, "bn", View(x_, {2, 2, 3}), 0, control_, Bytes(&y)),
              StatusIs(StatusCode::kFailedPrecondition, "layer 'bn': gamma[1] * inv_std[1] is 0"));
}

TEST_F(InferenceTest, EndsWithTheCallersDeath) {
  control_.check_alive = [] { return absl::DeadlineExceededError("too late"); };
  std::vector<double> y(12);
  EXPECT_THAT(Infer(registry_, "bn", View(x_, {2, 2, 3}), 0, control_, Bytes(&y)),
              StatusIs(StatusCode::kDeadlineExceeded, "too late"));
  EXPECT_THAT(Denormalize(registry_, "bn", View(x_, {2, 2, 3}), 0, control_, Bytes(&y)),
              StatusIs(StatusCode::kDeadlineExceeded));
}

}  // namespace
}  // namespace normd::registry
