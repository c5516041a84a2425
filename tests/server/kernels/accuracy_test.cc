#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "server/kernels/batch_norm.h"
#include "tests/server/kernels/adversarial.h"
#include "tests/server/kernels/element_types.h"
#include "tests/server/kernels/implementations.h"
#include "tests/server/kernels/truth.h"

// The accuracy contract of docs/batch_norm.md, and data whose mean and variance every order of additions gets exactly.
namespace normd::kernels {
namespace {

using truth::MutableViewOf;
using truth::Shape;
using truth::ViewOf;

struct Layout {
  std::string name;
  Shape shape;
};

const std::vector<Layout>& Layouts() {
  static const auto* layouts = new std::vector<Layout>{{"(N,C)", {8192, 5, 1}},        {"(N,C) wide", {600, 1500, 1}},
                                                       {"NCHW", {8, 5, 1024}},         {"NCHW 7x7", {64, 5, 49}},
                                                       {"NHWC", {8192, 5, 1}},         {"NCL short", {1500, 5, 3}},
                                                       {"one long row", {1, 2, 50000}}};
  return *layouts;
}

// A drift along the batch on top of the noise: the first value is then far from the mean in units of the noise.
enum class Signal { kNoise, kDrift };

template <typename T>
std::vector<T> MakeInput(const Shape& s, double ratio, Signal signal) {
  auto x = truth::Noise<double>(s.Elements(), 11);
  std::vector<T> out(x.size());
  for (int64_t o = 0; o < s.outer; ++o) {
    for (int64_t c = 0; c < s.num_channels; ++c) {
      const double std = std::ldexp(1.0, static_cast<int>(c % 7) - 3);
      const double sign = c % 2 == 0 ? 1 : -1;
      for (int64_t i = 0; i < s.inner; ++i) {
        const int64_t at = s.Index(o, c, i);
        const double where = static_cast<double>(o * s.inner + i) / static_cast<double>(s.PerChannel()) - 0.5;
        const double value = signal == Signal::kNoise ? x[at] : 3.4 * where + 0.1 * x[at];
        out[at] = static_cast<T>(std * (value + sign * ratio));
      }
    }
  }
  return out;
}

// How many standard deviations the first value is away from the mean.
double DeviationsOfFirst(const std::vector<long double>& values) {
  const truth::Moments moments = truth::MomentsOf(values);
  return static_cast<double>(std::abs(values[0] - moments.mean) / std::sqrt(moments.var));
}

// The bounds that batch_norm.h gives.
void ExpectMoments(double mean, double var, const std::vector<long double>& values) {
  const truth::Moments want = truth::MomentsOf(values);
  const auto want_mean = static_cast<double>(want.mean);
  const auto want_var = static_cast<double>(want.var);
  const double k = DeviationsOfFirst(values);
  ASSERT_NEAR(mean, want_mean, 1e-15 * (std::abs(want_mean) + (1 + k) * std::sqrt(want_var)));
  ASSERT_NEAR(var, want_var, 1e-14 * (1 + k * k) * want_var);
}

template <typename T>
class AccuracyTest : public ::testing::Test {};
TYPED_TEST_SUITE(AccuracyTest, FloatAndDouble);

TYPED_TEST(AccuracyTest, StatisticsAndOutputUpToAMeanOfAMillionDeviations) {
  for (const Layout& layout : Layouts()) {
    for (double ratio : {0.0, 1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6}) {
      for (Signal signal : {Signal::kNoise, Signal::kDrift}) {
        const Shape& s = layout.shape;
        SCOPED_TRACE(layout.name + " mean/std " + std::to_string(ratio) + (signal == Signal::kDrift ? " drift" : ""));
        const auto x = MakeInput<TypeParam>(s, ratio, signal);
        std::vector<double> mean(s.num_channels);
        std::vector<double> var(s.num_channels);
        std::vector<double> inv_std(s.num_channels);
        BatchStatistics(ViewOf(s, x.data()), 2, absl::MakeSpan(mean), absl::MakeSpan(var));
        InverseStd(var, 1e-5, absl::MakeSpan(inv_std));
        const auto gamma = truth::Noise<double>(s.num_channels, 12, 1, 0.2);
        const auto beta = truth::Noise<double>(s.num_channels, 13);
        std::vector<TypeParam> y(x.size());
        Normalize(ViewOf(s, x.data()), {.mean = mean, .inv_std = inv_std, .gamma = gamma, .beta = beta}, 2,
                  MutableViewOf(s, y.data()));
        const int64_t step = std::max<int64_t>(1, s.num_channels / 7);
        for (int64_t c = 0; c < s.num_channels; c += step) {
          const std::vector<long double> values = truth::Channel(s, x.data(), c);
          const truth::Moments want = truth::MomentsOf(values);
          ExpectMoments(mean[c], var[c], values);
          const long double want_inv_std = 1 / std::sqrt(want.var + 1e-5L);
          const std::vector<long double> got = truth::Channel(s, y.data(), c);
          // For double the mean itself is rounded at 2^-53 * |mean|, which x_hat sees as `ratio` roundings, and its sum
          // is of distances from the first value.
          const double unit = std::is_same_v<TypeParam, float>
                                  ? 4 * std::ldexp(1.0, -24)
                                  : 8 * std::ldexp(1.0, -53) * (1 + ratio + DeviationsOfFirst(values));
          long double worst = 0;
          for (size_t k = 0; k < got.size(); ++k) {
            const long double want_y = gamma[c] * ((values[k] - want.mean) * want_inv_std) + beta[c];
            worst = std::max(worst, std::abs(got[k] - want_y) / std::max(1.0L, std::abs(want_y)));
          }
          ASSERT_LE(static_cast<double>(worst), unit) << c;
        }
      }
    }
  }
}

// An outlier as the first value, from which the sums are taken.
TYPED_TEST(AccuracyTest, FirstValueFarFromTheOthers) {
  for (const Layout& layout : Layouts()) {
    const Shape& s = layout.shape;
    auto x = MakeInput<TypeParam>(s, 3, Signal::kNoise);
    for (int64_t c = 0; c < s.num_channels; ++c) x[s.Index(0, c, 0)] = static_cast<TypeParam>(1e6);
    std::vector<double> mean(s.num_channels);
    std::vector<double> var(s.num_channels);
    BatchStatistics(ViewOf(s, x.data()), 2, absl::MakeSpan(mean), absl::MakeSpan(var));
    for (int64_t c = 0; c < s.num_channels; ++c) {
      SCOPED_TRACE(layout.name + " channel " + std::to_string(c));
      ExpectMoments(mean[c], var[c], truth::Channel(s, x.data(), c));
    }
  }
}

// So far from 0 that the mean itself, rounded to double, is off by a ten-thousandth of the standard deviation: only the
// correction of the second pass keeps the variance.
TEST(AccuracyOfDoubleTest, VarianceWhenTheMeanCannotBeHeldExactly) {
  for (const Layout& layout : Layouts()) {
    const Shape& s = layout.shape;
    const auto x = MakeInput<double>(s, 1e12, Signal::kNoise);
    std::vector<double> mean(s.num_channels);
    std::vector<double> var(s.num_channels);
    BatchStatistics(ViewOf(s, x.data()), 2, absl::MakeSpan(mean), absl::MakeSpan(var));
    for (int64_t c = 0; c < s.num_channels; ++c) {
      const truth::Moments want = truth::MomentsOf(truth::Channel(s, x.data(), c));
      const auto want_var = static_cast<double>(want.var);
      ASSERT_NEAR(mean[c], static_cast<double>(want.mean), 2e-16 * std::abs(mean[c])) << layout.name << c;
      ASSERT_NEAR(var[c], want_var, 1e-12 * want_var) << layout.name << c;
    }
  }
}

TEST(AdversarialTest, StatisticsAndOutputStayWithinTheBounds) {
  for (const truth::AdversarialInput& input : truth::AdversarialInputs()) {
    SCOPED_TRACE(input.name);
    const Shape& s = input.shape;
    std::vector<double> mean(s.num_channels);
    std::vector<double> var(s.num_channels);
    std::vector<float> y(input.x.size());
    NormalizeBatch(ViewOf(s, input.x.data()), {.eps = 1e-5}, 2, absl::MakeSpan(mean), absl::MakeSpan(var),
                   MutableViewOf(s, y.data()));
    for (int64_t c = 0; c < s.num_channels; ++c) {
      const std::vector<long double> values = truth::Channel(s, input.x.data(), c);
      const truth::Moments want = truth::MomentsOf(values);
      if (want.var == 0) {
        ASSERT_EQ(mean[c], static_cast<double>(values[0]));
        ASSERT_EQ(var[c], 0);
      } else {
        ExpectMoments(mean[c], var[c], values);
      }
      const long double inv_std = 1 / std::sqrt(want.var + 1e-5L);
      const std::vector<long double> got = truth::Channel(s, y.data(), c);
      long double worst = 0;
      for (size_t k = 0; k < got.size(); ++k) {
        const long double want_y = (values[k] - want.mean) * inv_std;
        worst = std::max(worst, std::abs(got[k] - want_y) / std::max(1.0L, std::abs(want_y)));
      }
      ASSERT_LE(static_cast<double>(worst), 4 * std::ldexp(1.0, -24)) << c;
    }
  }
}

struct ExactCase {
  std::string name;
  Shape shape;
};

class ExactFillTest : public ::testing::TestWithParam<ExactCase> {};

// The input of oneDNN's benchdnn (tests/benchdnn/bnorm): neighbours add up to twice the mean, a small power of two, and
// differ from it in the last few bits, so that sums of values and of squares have no rounding in whatever order they
// are taken. benchdnn's threshold for mean and variance is 0, and so is ours.
TEST_P(ExactFillTest, MeanAndVarianceAreExactInEveryImplementationAtEveryThreadCount) {
  const Shape& s = GetParam().shape;
  const int64_t n = s.PerChannel();
  const int flex_bits = std::min(24, (24 - static_cast<int>(std::ceil(std::log2(static_cast<double>(n))))) / 2 - 1);
  ASSERT_GE(flex_bits, 3) << "too long for this fill";
  const int64_t flex_mask = (int64_t{1} << flex_bits) - 1;
  std::vector<float> x(static_cast<size_t>(s.Elements()));
  std::vector<double> want_mean(s.num_channels);
  std::vector<double> want_var(s.num_channels);
  for (int64_t c = 0; c < s.num_channels; ++c) {
    const float m = 0.25F * static_cast<float>(1 << (c % 7));
    int64_t squares = 0;
    for (int64_t k = 0; k < n; ++k) {
      const int64_t l = k + c * 239 * 2;
      int64_t gen = (l / 2 * 1637) & flex_mask;
      if (n % 2 == 1 && k == n - 1) gen = 0;
      const float f = (l % 2 == 0 ? 1.0F : -1.0F) * static_cast<float>(gen) / static_cast<float>(1 << flex_bits);
      x[s.Index(k / s.inner, c, k % s.inner)] = m * (1.0F + f);
      squares += gen * gen;
    }
    want_mean[c] = m;
    // An integer over n, scaled by a power of two: one rounding.
    want_var[c] = std::ldexp(static_cast<double>(squares) * m * m, -2 * flex_bits) / static_cast<double>(n);
  }
  WithEachImplementation([&] {
    for (int threads = 1; threads <= 8; ++threads) {
      std::vector<double> mean(s.num_channels);
      std::vector<double> var(s.num_channels);
      BatchStatistics(ViewOf(s, x.data()), threads, absl::MakeSpan(mean), absl::MakeSpan(var));
      EXPECT_EQ(mean, want_mean) << "threads " << threads;
      EXPECT_EQ(var, want_var) << "threads " << threads;
    }
  });
}

// From benchdnn's shape lists: mb2ic128ih2 "catch_cancel", ResNet-50 and GoogLeNet layers, 1d and 3d, odd lengths.
INSTANTIATE_TEST_SUITE_P(
    BenchdnnShapes, ExactFillTest,
    ::testing::Values(ExactCase{"catch_cancel", {2, 128, 4}}, ExactCase{"resnet50_7x7", {32, 64, 49}},
                      ExactCase{"resnet50_14x14", {16, 40, 196}}, ExactCase{"resnet50_28x28", {8, 20, 784}},
                      ExactCase{"resnet50_7x7_nhwc", {1568, 64, 1}}, ExactCase{"nhwc_28x28", {6272, 20, 1}},
                      ExactCase{"nc", {512, 200, 1}}, ExactCase{"ncl", {16, 9, 13}}, ExactCase{"ncdhw", {2, 3, 8000}},
                      ExactCase{"odd", {7, 11, 149}}, ExactCase{"odd_nhwc", {1043, 11, 1}},
                      ExactCase{"long_row", {1, 3, 16383}}),
    [](const ::testing::TestParamInfo<ExactCase>& tested) { return tested.param.name; });

}  // namespace
}  // namespace normd::kernels
