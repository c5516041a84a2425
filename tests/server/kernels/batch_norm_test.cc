#include "server/kernels/batch_norm.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "server/kernels/reference.h"
#include "tests/non_finite.h"
#include "tests/server/kernels/element_types.h"
#include "tests/server/kernels/truth.h"

namespace normd::kernels {
namespace {

using ::testing::ElementsAre;
using tests::kInf;
using tests::kNaN;
using truth::MutableViewOf;
using truth::Shape;
using truth::ViewOf;

// 4 * 2^-24 * max(1, |y|) for float; for double, rounding only.
template <typename T>
double Tolerance(long double y) {
  const double unit = std::is_same_v<T, float> ? 4 * std::ldexp(1.0, -24) : 1e-12;
  return unit * std::max(1.0, std::abs(static_cast<double>(y)));
}

template <typename T>
void ExpectNear(T got, long double want, const Shape& s, int64_t at) {
  ASSERT_NEAR(got, static_cast<double>(want), Tolerance<T>(want)) << s.ToString() << " at " << at;
}

struct Statistics {
  std::vector<double> mean;
  std::vector<double> var;
};

template <typename T>
Statistics StatisticsOf(const Shape& s, const T* x, int threads) {
  Statistics out{std::vector<double>(s.num_channels), std::vector<double>(s.num_channels)};
  BatchStatistics(ViewOf(s, x), threads, absl::MakeSpan(out.mean), absl::MakeSpan(out.var));
  return out;
}

template <typename T>
bool SameBits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

template <typename T>
void ExpectStatisticsNear(const Shape& s, const T* x, const Statistics& got, const std::string& what) {
  for (int64_t c = 0; c < s.num_channels; ++c) {
    const truth::Moments want = truth::MomentsOf(truth::Channel(s, x, c));
    const auto var = static_cast<double>(want.var);
    const double std = std::sqrt(var);
    const auto mean = static_cast<double>(want.mean);
    EXPECT_NEAR(got.mean[c], mean, 1e-12 * std::max(std::abs(mean), std)) << what << s.ToString() << " channel " << c;
    EXPECT_NEAR(got.var[c], var, 1e-12 * var) << what << s.ToString() << " channel " << c;
  }
}

template <typename T>
class BatchNormTest : public ::testing::Test {};
TYPED_TEST_SUITE(BatchNormTest, FloatAndDouble);

TYPED_TEST(BatchNormTest, StatisticsOfEveryOddShapeAgreeWithTheFormula) {
  for (const Shape& s : truth::OddShapes()) {
    const auto x = truth::Noise<TypeParam>(s.Elements(), 1, 3, 2);
    ExpectStatisticsNear(s, x.data(), StatisticsOf(s, x.data(), 1), "");
    Statistics plain{std::vector<double>(s.num_channels), std::vector<double>(s.num_channels)};
    reference::BatchStatistics(ViewOf(s, x.data()), absl::MakeSpan(plain.mean), absl::MakeSpan(plain.var));
    ExpectStatisticsNear(s, x.data(), plain, "reference ");
  }
}

TYPED_TEST(BatchNormTest, EveryThreadCountGivesTheSameBits) {
  for (const Shape& s : truth::OddShapes()) {
    const auto x = truth::Noise<TypeParam>(s.Elements(), 2, 3, 2);
    const auto dy = truth::Noise<TypeParam>(s.Elements(), 3);
    const Statistics first = StatisticsOf(s, x.data(), 1);
    std::vector<double> inv_std(s.num_channels);
    InverseStd(first.var, 1e-5, absl::MakeSpan(inv_std));
    const ChannelParams params{.mean = first.mean, .inv_std = inv_std, .gamma = inv_std, .beta = first.mean};
    std::vector<TypeParam> first_y(x.size());
    std::vector<TypeParam> first_dx(x.size());
    std::vector<double> first_dgamma(s.num_channels);
    std::vector<double> first_dbeta(s.num_channels);
    for (int threads = 1; threads <= 8; ++threads) {
      const Statistics again = StatisticsOf(s, x.data(), threads);
      ASSERT_TRUE(SameBits(first.mean, again.mean)) << s.ToString() << " threads " << threads;
      ASSERT_TRUE(SameBits(first.var, again.var)) << s.ToString() << " threads " << threads;
      std::vector<TypeParam> y(x.size());
      std::vector<TypeParam> dx(x.size());
      std::vector<double> dgamma(s.num_channels);
      std::vector<double> dbeta(s.num_channels);
      Normalize(ViewOf(s, x.data()), params, threads, MutableViewOf(s, y.data()));
      Backward(ViewOf(s, x.data()), ViewOf(s, dy.data()), params, GradientMode::kBatch, threads, absl::MakeSpan(dgamma),
               absl::MakeSpan(dbeta), MutableViewOf(s, dx.data()));
      if (threads == 1) {
        first_y = y;
        first_dx = dx;
        first_dgamma = dgamma;
        first_dbeta = dbeta;
      }
      ASSERT_TRUE(SameBits(first_y, y)) << s.ToString() << " threads " << threads;
      ASSERT_TRUE(SameBits(first_dx, dx)) << s.ToString() << " threads " << threads;
      ASSERT_TRUE(SameBits(first_dgamma, dgamma)) << s.ToString() << " threads " << threads;
      ASSERT_TRUE(SameBits(first_dbeta, dbeta)) << s.ToString() << " threads " << threads;
    }
  }
}

TYPED_TEST(BatchNormTest, NormalizeAndDenormalizeOfEveryOddShapeAgreeWithTheFormula) {
  for (const Shape& s : truth::OddShapes()) {
    for (double clip : {kInf, 0.75}) {
      const auto x = truth::Noise<TypeParam>(s.Elements(), 4, -2, 3);
      const auto mean = truth::Noise<double>(s.num_channels, 5, -2, 1);
      const auto gamma = truth::Noise<double>(s.num_channels, 6, 2, 0.3);
      const auto beta = truth::Noise<double>(s.num_channels, 7);
      std::vector<double> inv_std(s.num_channels);
      for (int64_t c = 0; c < s.num_channels; ++c) inv_std[c] = 0.25 + 0.125 * static_cast<double>(c % 5);
      const ChannelParams params{.mean = mean, .inv_std = inv_std, .gamma = gamma, .beta = beta, .clip = clip};
      std::vector<TypeParam> y(x.size());
      std::vector<TypeParam> plain(x.size());
      std::vector<TypeParam> back(x.size());
      std::vector<TypeParam> plain_back(x.size());
      Normalize(ViewOf(s, x.data()), params, 2, MutableViewOf(s, y.data()));
      reference::Normalize(ViewOf(s, x.data()), params, MutableViewOf(s, plain.data()));
      Denormalize(ViewOf(s, x.data()), params, 2, MutableViewOf(s, back.data()));
      reference::Denormalize(ViewOf(s, x.data()), params, MutableViewOf(s, plain_back.data()));
      for (int64_t o = 0; o < s.outer; ++o) {
        for (int64_t c = 0; c < s.num_channels; ++c) {
          for (int64_t i = 0; i < s.inner; ++i) {
            const int64_t at = s.Index(o, c, i);
            const long double x_hat = (static_cast<long double>(x[at]) - mean[c]) * inv_std[c];
            const long double want = gamma[c] * truth::Clip(x_hat, clip) + beta[c];
            ExpectNear(y[at], want, s, at);
            ExpectNear(plain[at], want, s, at);
            const long double want_x = (x[at] - static_cast<long double>(beta[c])) / (gamma[c] * inv_std[c]) + mean[c];
            ExpectNear(back[at], want_x, s, at);
            ExpectNear(plain_back[at], want_x, s, at);
          }
        }
      }
    }
  }
}

// The elements before and after the tensor must neither be read into a result nor written.
TYPED_TEST(BatchNormTest, DataAlignedToTheElementOnlyAndGuarded) {
  for (const Shape& s : std::vector<Shape>{{5, 3, 1}, {130, 67, 1}, {3, 4, 5}, {3, 4, 37}, {2, 2, 4099}}) {
    const auto values = truth::Noise<TypeParam>(s.Elements(), 8);
    const Statistics want = StatisticsOf(s, values.data(), 1);
    std::vector<double> inv_std(s.num_channels, 0.5);
    const ChannelParams params{.mean = want.mean, .inv_std = inv_std};
    std::vector<TypeParam> want_y(values.size());
    Normalize(ViewOf(s, values.data()), params, 1, MutableViewOf(s, want_y.data()));
    for (size_t offset = 1; offset < 16; ++offset) {
      std::vector<TypeParam> x(values.size() + 32, static_cast<TypeParam>(kNaN));
      std::vector<TypeParam> y(values.size() + 32, TypeParam{77});
      std::copy(values.begin(), values.end(), x.begin() + offset);
      const Statistics got = StatisticsOf(s, x.data() + offset, 2);
      EXPECT_TRUE(SameBits(want.mean, got.mean) && SameBits(want.var, got.var)) << s.ToString() << " off " << offset;
      Normalize(ViewOf(s, x.data() + offset), params, 2, MutableViewOf(s, y.data() + offset));
      const std::vector<TypeParam> inside(y.begin() + offset, y.begin() + offset + values.size());
      EXPECT_TRUE(SameBits(want_y, inside)) << s.ToString() << " off " << offset;
      for (size_t i = 0; i < y.size(); ++i) {
        const bool inside_tensor = i >= offset && i < offset + values.size();
        ASSERT_TRUE(inside_tensor || y[i] == TypeParam{77}) << "wrote outside at " << i;
      }
    }
  }
}

TYPED_TEST(BatchNormTest, InPlaceGivesTheSameBits) {
  for (const Shape& s : std::vector<Shape>{{130, 67, 1}, {9, 5, 7}, {6, 5, 40}, {1, 2, 9000}}) {
    for (double clip : {kInf, 0.5}) {
      for (int threads : {1, 3}) {
        const auto x = truth::Noise<TypeParam>(s.Elements(), 9);
        const std::vector<double> mean(s.num_channels, 0.25);
        const std::vector<double> inv_std(s.num_channels, 1.5);
        const std::vector<double> gamma(s.num_channels, -2);
        const ChannelParams params{.mean = mean, .inv_std = inv_std, .gamma = gamma, .clip = clip};
        std::vector<TypeParam> y(x.size());
        std::vector<TypeParam> in_place = x;
        Normalize(ViewOf(s, x.data()), params, threads, MutableViewOf(s, y.data()));
        Normalize(ViewOf(s, in_place.data()), params, threads, MutableViewOf(s, in_place.data()));
        EXPECT_TRUE(SameBits(y, in_place)) << s.ToString();
        Denormalize(ViewOf(s, x.data()), params, threads, MutableViewOf(s, y.data()));
        in_place = x;
        Denormalize(ViewOf(s, in_place.data()), params, threads, MutableViewOf(s, in_place.data()));
        EXPECT_TRUE(SameBits(y, in_place)) << s.ToString();
      }
    }
  }
}

TYPED_TEST(BatchNormTest, OneValuePerChannel) {
  const Shape s{1, 3, 1};
  const std::vector<TypeParam> x = {TypeParam{5}, TypeParam{-2.5}, TypeParam{0}};
  const Statistics got = StatisticsOf(s, x.data(), 2);
  EXPECT_THAT(got.mean, ElementsAre(5, -2.5, 0));
  EXPECT_THAT(got.var, ElementsAre(0, 0, 0));
}

// PyTorch 1.13 gives |y| = 1.1e4 here (pytorch#5410).
TYPED_TEST(BatchNormTest, AConstantChannelIsItsOwnMeanAndNormalizesToBeta) {
  for (const Shape& s : std::vector<Shape>{{7, 2, 9}, {1000, 2, 1}, {3, 2, 5000}, {41, 2, 3}, {10007, 2, 1}}) {
    for (double constant :
         {1e10 / 3, -0.1, 1e-30, 0.0, 1e6 / 11, static_cast<double>(std::numeric_limits<TypeParam>::max())}) {
      const auto value = static_cast<TypeParam>(constant);
      const std::vector<TypeParam> x(static_cast<size_t>(s.Elements()), value);
      const Statistics got = StatisticsOf(s, x.data(), 2);
      EXPECT_THAT(got.mean, ElementsAre(value, value)) << s.ToString();
      EXPECT_THAT(got.var, ElementsAre(0, 0)) << s.ToString();
      std::vector<double> inv_std(2);
      InverseStd(got.var, 1e-5, absl::MakeSpan(inv_std));
      const std::vector<double> gamma = {3, -7e5};
      const std::vector<double> beta = {0, 0.1};
      std::vector<TypeParam> y(x.size());
      Normalize(ViewOf(s, x.data()), {.mean = got.mean, .inv_std = inv_std, .gamma = gamma, .beta = beta}, 2,
                MutableViewOf(s, y.data()));
      for (int64_t o = 0; o < s.outer; ++o) {
        for (int64_t i = 0; i < s.inner; ++i) {
          ASSERT_EQ(y[s.Index(o, 0, i)], TypeParam{0});
          ASSERT_EQ(y[s.Index(o, 1, i)], static_cast<TypeParam>(0.1));
        }
      }
    }
  }
}

TYPED_TEST(BatchNormTest, NaNAndInfinityStayInTheirChannel) {
  const auto nan = static_cast<TypeParam>(kNaN);
  const auto inf = static_cast<TypeParam>(kInf);
  for (const Shape& s : std::vector<Shape>{{50, 4, 1}, {5, 4, 9}, {5, 4, 50}, {1, 4, 9000}}) {
    for (int64_t where : {int64_t{0}, s.PerChannel() / 2, s.PerChannel() - 1}) {
      auto x = truth::Noise<TypeParam>(s.Elements(), 10);
      const Statistics clean = StatisticsOf(s, x.data(), 2);
      x[s.Index(where / s.inner, 1, where % s.inner)] = nan;
      x[s.Index(where / s.inner, 2, where % s.inner)] = -inf;
      const Statistics got = StatisticsOf(s, x.data(), 2);
      for (int64_t c : {0, 3}) {
        EXPECT_EQ(got.mean[c], clean.mean[c]);
        EXPECT_EQ(got.var[c], clean.var[c]);
      }
      EXPECT_TRUE(std::isnan(got.mean[1]) && std::isnan(got.var[1])) << s.ToString() << " at " << where;
      EXPECT_EQ(got.mean[2], -kInf) << s.ToString() << " at " << where;
      EXPECT_TRUE(std::isnan(got.var[2])) << s.ToString() << " at " << where;
    }
  }
}

TYPED_TEST(BatchNormTest, NaNPassesThroughNormalizeElementByElement) {
  const auto nan = static_cast<TypeParam>(kNaN);
  const auto inf = static_cast<TypeParam>(kInf);
  for (const Shape& s : std::vector<Shape>{{9, 1, 1}, {1, 1, 17}}) {
    std::vector<TypeParam> x(static_cast<size_t>(s.Elements()), TypeParam{2});
    x[3] = nan;
    x[4] = inf;
    x[5] = -inf;
    for (double clip : {kInf, 10.0}) {
      std::vector<TypeParam> y(x.size());
      Normalize(ViewOf(s, x.data()), {.mean = {1.0}, .inv_std = {2.0}, .clip = clip}, 1, MutableViewOf(s, y.data()));
      EXPECT_TRUE(std::isnan(y[3]));
      EXPECT_EQ(y[4], static_cast<TypeParam>(clip));
      EXPECT_EQ(y[5], static_cast<TypeParam>(-clip));
      for (size_t i = 0; i < x.size(); ++i) {
        EXPECT_TRUE((i >= 3 && i <= 5) || y[i] == TypeParam{2}) << i;
      }
    }
  }
}

TEST(InverseStdTest, Values) {
  struct Case {
    double var, eps, want;
  };
  for (const Case& c : std::vector<Case>{{4, 0, 0.5}, {0, 0.25, 2}, {0, 0, 0}, {1 - 1e-5, 1e-5, 1}, {kInf, 1e-5, 0}}) {
    double got = -1;
    InverseStd({&c.var, 1}, c.eps, {&got, 1});
    EXPECT_DOUBLE_EQ(got, c.want) << c.var << " " << c.eps;
  }
  const double nan = kNaN;
  double got = 0;
  InverseStd({&nan, 1}, 1e-5, {&got, 1});
  EXPECT_TRUE(std::isnan(got));
}

// A batch that float32 statistics get wrong (float32 sums of (N,C) give a running_var about 500 times too large, and
// sums of squares a negative one); the numbers are sums of integers, checked by hand.
TEST(BatchNormTrapsTest, MeanOfMillionsWithSmallSteps) {
  // 16777217 is the first integer that float32 cannot hold, so counts and sums in float32 stop there.
  const Shape s{1 << 12, 2, 1};
  std::vector<float> x(static_cast<size_t>(s.Elements()));
  for (int64_t o = 0; o < s.outer; ++o) {
    x[s.Index(o, 0, 0)] = o % 2 == 0 ? 1000000.0F : 1000002.0F;
    x[s.Index(o, 1, 0)] = o % 4 == 0 ? -3000000.0F : -3000004.0F;
  }
  const Statistics got = StatisticsOf(s, x.data(), 2);
  EXPECT_THAT(got.mean, ElementsAre(1000001.0, -3000003.0));
  EXPECT_THAT(got.var, ElementsAre(1.0, 3.0));
}

// tf: mean 1e4 with a variance of 1e-4 (std 1e-2) gives a negative variance in one float32 pass; sums of squares of
// 3e38 overflow float32 and make y silently 0.
TEST(BatchNormTrapsTest, LargestFloatsDoNotOverflow) {
  const Shape s{2, 1, 1};
  const std::vector<float> x = {3e38F, -3e38F};
  const Statistics got = StatisticsOf(s, x.data(), 1);
  const auto a = static_cast<double>(3e38F);
  EXPECT_EQ(got.mean[0], 0.0);
  EXPECT_DOUBLE_EQ(got.var[0], a * a);
  std::vector<double> inv_std(1);
  InverseStd(got.var, 1e-5, absl::MakeSpan(inv_std));
  std::vector<float> y(2);
  Normalize(ViewOf(s, x.data()), {.mean = got.mean, .inv_std = inv_std}, 1, MutableViewOf(s, y.data()));
  EXPECT_THAT(y, ElementsAre(1.0F, -1.0F));
}

// The masked batch of Keras's test_batchnorm_ignore_masked_values without its masked rows: mean [1.5, 5], var [0.25,
// 0].
TEST(BatchNormTrapsTest, NumbersOfKeras) {
  const std::vector<float> x = {1, 5, 2, 5};
  const Statistics got = StatisticsOf({2, 2, 1}, x.data(), 1);
  EXPECT_THAT(got.mean, ElementsAre(1.5, 5));
  EXPECT_THAT(got.var, ElementsAre(0.25, 0));
}

}  // namespace
}  // namespace normd::kernels
