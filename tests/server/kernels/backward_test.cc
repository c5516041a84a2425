#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "server/kernels/batch_norm.h"
#include "server/kernels/reference.h"
#include "tests/non_finite.h"
#include "tests/server/kernels/element_types.h"
#include "tests/server/kernels/truth.h"

namespace normd::kernels {
namespace {

using tests::kInf;
using tests::kNaN;
using truth::MutableViewOf;
using truth::Shape;
using truth::ViewOf;

template <typename T>
struct Problem {
  Shape shape;
  std::vector<T> x;
  std::vector<T> dy;
  std::vector<double> mean;
  std::vector<double> var;
  std::vector<double> inv_std;
  std::vector<double> gamma;
  double clip = kInf;

  Problem(const Shape& s, uint32_t seed)
      : shape(s),
        x(truth::Noise<T>(s.Elements(), seed, 1.5, 2)),
        dy(truth::Noise<T>(s.Elements(), seed + 1, 0.1)),
        mean(s.num_channels),
        var(s.num_channels),
        inv_std(s.num_channels),
        gamma(truth::Noise<double>(s.num_channels, seed + 2, 1, 0.3)) {
    BatchStatistics(ViewOf(s, x.data()), 1, absl::MakeSpan(mean), absl::MakeSpan(var));
    InverseStd(var, 1e-3, absl::MakeSpan(inv_std));
  }
  ChannelParams Params() const { return {.mean = mean, .inv_std = inv_std, .gamma = gamma, .clip = clip}; }
};

template <typename T>
struct Result {
  std::vector<double> dgamma;
  std::vector<double> dbeta;
  std::vector<T> dx;

  explicit Result(const Shape& s) : dgamma(s.num_channels, 7), dbeta(s.num_channels, 7), dx(s.Elements(), T{7}) {}
};

template <typename T>
Result<T> BackwardOf(const Problem<T>& p, GradientMode mode, int threads) {
  Result<T> r(p.shape);
  Backward(ViewOf(p.shape, p.x.data()), ViewOf(p.shape, p.dy.data()), p.Params(), mode, threads,
           absl::MakeSpan(r.dgamma), absl::MakeSpan(r.dbeta), MutableViewOf(p.shape, r.dx.data()));
  return r;
}

template <typename T>
void ExpectGradients(const Problem<T>& p, GradientMode mode, const Result<T>& got, const std::string& what) {
  const double unit = std::is_same_v<T, float> ? 4 * std::ldexp(1.0, -24) : 1e-12;
  for (int64_t c = 0; c < p.shape.num_channels; ++c) {
    const truth::Gradients want =
        truth::GradientsOf(truth::Channel(p.shape, p.x.data(), c), truth::Channel(p.shape, p.dy.data(), c), p.mean[c],
                           p.inv_std[c], p.gamma[c], p.clip, mode);
    const double size = 1e-12 * static_cast<double>(p.shape.PerChannel());
    ASSERT_NEAR(got.dgamma[c], static_cast<double>(want.dgamma), size) << what << p.shape.ToString() << c;
    ASSERT_NEAR(got.dbeta[c], static_cast<double>(want.dbeta), size) << what << p.shape.ToString() << c;
    const std::vector<long double> dx = truth::Channel(p.shape, got.dx.data(), c);
    for (size_t k = 0; k < dx.size(); ++k) {
      const auto value = static_cast<double>(want.dx[k]);
      const double tolerance = unit * std::max(1.0, std::abs(value));
      // The macro itself, for each of millions of values, would take most of the test.
      if (std::abs(static_cast<double>(dx[k]) - value) <= tolerance) continue;
      ASSERT_NEAR(static_cast<double>(dx[k]), value, tolerance)
          << what << p.shape.ToString() << " channel " << c << " value " << k;
    }
  }
}

template <typename T>
class BackwardTest : public ::testing::Test {};
TYPED_TEST_SUITE(BackwardTest, FloatAndDouble);

TYPED_TEST(BackwardTest, EveryOddShapeAgreesWithTheChainRule) {
  for (const Shape& s : truth::OddShapes()) {
    for (GradientMode mode : {GradientMode::kBatch, GradientMode::kConstant}) {
      for (double clip : {kInf, 0.8}) {
        Problem<TypeParam> p(s, 21);
        p.clip = clip;
        ExpectGradients(p, mode, BackwardOf(p, mode, 2), "");
        Result<TypeParam> plain(s);
        reference::Backward(ViewOf(s, p.x.data()), ViewOf(s, p.dy.data()), p.Params(), mode,
                            absl::MakeSpan(plain.dgamma), absl::MakeSpan(plain.dbeta),
                            MutableViewOf(s, plain.dx.data()));
        ExpectGradients(p, mode, plain, "reference ");
      }
    }
  }
}

// Central differences of loss = sum(dy * y) through BatchStatistics, InverseStd and Normalize: judges the formula
// itself.
TEST(BackwardFiniteDifferencesTest, MatchTheForwardPass) {
  const double h = 1e-5;
  for (const Shape& s : std::vector<Shape>{{6, 3, 1}, {3, 2, 4}, {2, 2, 17}, {1, 1, 3}}) {
    for (GradientMode mode : {GradientMode::kBatch, GradientMode::kConstant}) {
      for (double clip : {kInf, 0.9}) {
        Problem<double> p(s, 31);
        p.clip = clip;
        std::vector<double> beta(s.num_channels, 0.3);
        const auto loss = [&](const std::vector<double>& x, const std::vector<double>& gamma,
                              const std::vector<double>& shift) {
          std::vector<double> mean = p.mean;
          std::vector<double> inv_std = p.inv_std;
          if (mode == GradientMode::kBatch) {
            std::vector<double> var(mean.size());
            BatchStatistics(ViewOf(s, x.data()), 1, absl::MakeSpan(mean), absl::MakeSpan(var));
            InverseStd(var, 1e-3, absl::MakeSpan(inv_std));
          }
          std::vector<double> y(x.size());
          Normalize(ViewOf(s, x.data()),
                    {.mean = mean, .inv_std = inv_std, .gamma = gamma, .beta = shift, .clip = clip}, 1,
                    MutableViewOf(s, y.data()));
          double sum = 0;
          for (size_t i = 0; i < y.size(); ++i) sum += p.dy[i] * y[i];
          return sum;
        };
        const auto slope = [&](std::vector<double>* values, size_t at, const auto& f) {
          const double keep = (*values)[at];
          (*values)[at] = keep + h;
          const double up = f();
          (*values)[at] = keep - h;
          const double down = f();
          (*values)[at] = keep;
          return (up - down) / (2 * h);
        };
        const Result<double> got = BackwardOf(p, mode, 2);
        std::vector<double> x = p.x;
        std::vector<double> gamma = p.gamma;
        const auto f = [&] { return loss(x, gamma, beta); };
        for (size_t i = 0; i < x.size(); ++i) {
          EXPECT_NEAR(got.dx[i], slope(&x, i, f), 2e-8) << s.ToString() << " clip " << clip << " at " << i;
        }
        for (size_t c = 0; c < gamma.size(); ++c) {
          EXPECT_NEAR(got.dgamma[c], slope(&gamma, c, f), 1e-8) << s.ToString();
          EXPECT_NEAR(got.dbeta[c], slope(&beta, c, f), 1e-8) << s.ToString();
        }
      }
    }
  }
}

TYPED_TEST(BackwardTest, DxMayBeAnInputOrNothing) {
  for (const Shape& s : std::vector<Shape>{{130, 67, 1}, {9, 5, 7}, {6, 5, 40}, {1, 2, 9000}}) {
    for (GradientMode mode : {GradientMode::kBatch, GradientMode::kConstant}) {
      for (double clip : {kInf, 0.5}) {
        for (int threads : {1, 2, 5}) {
          Problem<TypeParam> p(s, 41);
          p.clip = clip;
          const Result<TypeParam> want = BackwardOf(p, mode, 1);
          const size_t bytes = want.dx.size() * sizeof(TypeParam);
          const auto run_into = [&](TypeParam* x, TypeParam* dy, TypeParam* dx) {
            Result<TypeParam> r(s);
            Backward(ViewOf<TypeParam>(s, x), ViewOf<TypeParam>(s, dy), p.Params(), mode, threads,
                     absl::MakeSpan(r.dgamma), absl::MakeSpan(r.dbeta), MutableViewOf(s, dx));
            EXPECT_EQ(r.dgamma, want.dgamma);
            EXPECT_EQ(r.dbeta, want.dbeta);
          };
          std::vector<TypeParam> x = p.x;
          std::vector<TypeParam> dy = p.dy;
          run_into(x.data(), dy.data(), nullptr);
          run_into(x.data(), dy.data(), dy.data());
          EXPECT_EQ(std::memcmp(dy.data(), want.dx.data(), bytes), 0) << s.ToString() << " into dy";
          dy = p.dy;
          run_into(x.data(), dy.data(), x.data());
          EXPECT_EQ(std::memcmp(x.data(), want.dx.data(), bytes), 0) << s.ToString() << " into x";
        }
      }
    }
  }
}

TYPED_TEST(BackwardTest, AChannelWithoutAMeanGetsNothing) {
  for (const Shape& s : std::vector<Shape>{{1, 3, 1}, {50, 3, 1}, {9, 3, 7}, {6, 3, 40}, {1, 3, 9000}}) {
    for (GradientMode mode : {GradientMode::kBatch, GradientMode::kConstant}) {
      for (double clip : {kInf, 0.5}) {
        Problem<TypeParam> p(s, 51);
        p.clip = clip;
        const Result<TypeParam> clean = BackwardOf(p, mode, 2);
        p.mean[1] = kNaN;
        p.inv_std[1] = kNaN;
        p.x[s.Index(0, 1, 0)] = static_cast<TypeParam>(kNaN);
        p.dy[s.Index(s.outer - 1, 1, s.inner - 1)] = static_cast<TypeParam>(kInf);
        const Result<TypeParam> got = BackwardOf(p, mode, 2);
        EXPECT_EQ(got.dgamma[1], 0);
        EXPECT_EQ(got.dbeta[1], 0);
        for (int64_t c : {0, 1, 2}) {
          for (int64_t o = 0; o < s.outer; ++o) {
            for (int64_t i = 0; i < s.inner; ++i) {
              ASSERT_EQ(got.dx[s.Index(o, c, i)], c == 1 ? TypeParam{0} : clean.dx[s.Index(o, c, i)]) << s.ToString();
            }
          }
        }
        EXPECT_EQ(got.dgamma[0], clean.dgamma[0]);
        EXPECT_EQ(got.dbeta[2], clean.dbeta[2]);
      }
    }
  }
}

// dy of a NaN does not leave its channel.
TYPED_TEST(BackwardTest, NaNInDyStaysInItsChannel) {
  for (const Shape& s : std::vector<Shape>{{50, 3, 1}, {6, 3, 40}}) {
    Problem<TypeParam> p(s, 61);
    const Result<TypeParam> clean = BackwardOf(p, GradientMode::kBatch, 2);
    p.dy[s.Index(1, 1, 0)] = static_cast<TypeParam>(kNaN);
    const Result<TypeParam> got = BackwardOf(p, GradientMode::kBatch, 2);
    EXPECT_TRUE(std::isnan(got.dgamma[1]) && std::isnan(got.dbeta[1]) && std::isnan(got.dx[s.Index(0, 1, 0)]));
    for (int64_t c : {0, 2}) {
      EXPECT_EQ(got.dgamma[c], clean.dgamma[c]);
      EXPECT_EQ(got.dx[s.Index(s.outer - 1, c, s.inner - 1)], clean.dx[s.Index(s.outer - 1, c, s.inner - 1)]);
    }
  }
}

// Three values around 0 with clip 1: the outer two are held back. n = 3, inv_std = 1, gamma = 2, dy = (1, 2, 4):
// dbeta = 7; dgamma = -1*1 + 0*2 + 1*4 = 3; constant: dx = 2 * (0, 2, 0);
// batch: sum(g) = 2, sum(g * x_hat) = 0, dx = 2 * (g - 2/3).
TEST(BackwardClipTest, ByHand) {
  const Shape s{3, 1, 1};
  const std::vector<double> x = {-1.5, 0, 1.5};
  const std::vector<double> dy = {1, 2, 4};
  const std::vector<double> mean = {0};
  const std::vector<double> inv_std = {1};
  const std::vector<double> gamma = {2};
  const ChannelParams kept{.mean = mean, .inv_std = inv_std, .gamma = gamma, .clip = 1};
  Result<double> r(s);
  Backward(ViewOf(s, x.data()), ViewOf(s, dy.data()), kept, GradientMode::kConstant, 1, absl::MakeSpan(r.dgamma),
           absl::MakeSpan(r.dbeta), MutableViewOf(s, r.dx.data()));
  EXPECT_EQ(r.dbeta[0], 7);
  EXPECT_EQ(r.dgamma[0], 3);
  EXPECT_EQ(r.dx, (std::vector<double>{0, 4, 0}));
  Backward(ViewOf(s, x.data()), ViewOf(s, dy.data()), kept, GradientMode::kBatch, 1, absl::MakeSpan(r.dgamma),
           absl::MakeSpan(r.dbeta), MutableViewOf(s, r.dx.data()));
  EXPECT_EQ(r.dbeta[0], 7);
  EXPECT_EQ(r.dgamma[0], 3);
  EXPECT_DOUBLE_EQ(r.dx[0], -4.0 / 3);
  EXPECT_DOUBLE_EQ(r.dx[1], 8.0 / 3);
  EXPECT_DOUBLE_EQ(r.dx[2], -4.0 / 3);
}

}  // namespace
}  // namespace normd::kernels
