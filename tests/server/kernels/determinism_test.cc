#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "server/kernels/batch_norm.h"
#include "server/kernels/implementation.h"
#include "tests/server/kernels/bits.h"
#include "tests/server/kernels/element_types.h"
#include "tests/server/kernels/implementations.h"
#include "tests/server/kernels/truth.h"

// The same bits from every implementation, at every thread count, however the tensor is cut, aligned or overlaid.
namespace normd::kernels {
namespace {

using bits::Everything;
using bits::Values;
using truth::MutableViewOf;
using truth::Shape;
using truth::ViewOf;

// Large enough for outputs past the caches, for channels that the threads share, for groups of channels and for tiles.
std::vector<Shape> LargeShapes() {
  return {{8, 40, 3136}, {2, 3, 150001}, {3, 9, 65537}, {1, 2, 300000}, {40, 130, 49},
          {33, 70, 196}, {160, 2100, 1}, {9000, 67, 1}, {3000, 11, 15}, {70, 1030, 5}};
}

// Sanitized builds do the same with 1 and 8 threads.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int kThreadStep = 7;
#else
constexpr int kThreadStep = 1;
#endif

template <typename T>
class DeterminismTest : public ::testing::Test {};
TYPED_TEST_SUITE(DeterminismTest, ElementTypes);

TYPED_TEST(DeterminismTest, EveryImplementationAtEveryThreadCountGivesTheSameBits) {
  for (const Shape& s : truth::OddShapes()) {
    SCOPED_TRACE(s.ToString());
    const auto x = Values<TypeParam>(s.Elements(), 1);
    const auto dy = Values<TypeParam>(s.Elements(), 2);
    const Everything<TypeParam> first(s, x, dy, 1, false);
    ASSERT_TRUE(first.batch_is_both_in_one());
    WithEachImplementation([&] {
      for (int threads = 1; threads <= 8; threads += kThreadStep) {
        const bool in_place = threads % 2 == 0;
        ASSERT_TRUE(first == Everything<TypeParam>(s, x, dy, threads, in_place)) << "threads " << threads;
      }
    });
  }
}

// `values` with channels 1, 4, 7 ... so far from 0 that a mean is taken off value by value there, and folded elsewhere.
template <typename T>
std::vector<T> WithFarChannels(const Shape& s, std::vector<T> values) {
  for (int64_t o = 0; o < s.outer; ++o) {
    for (int64_t c = 1; c < s.num_channels; c += 3) {
      for (int64_t i = 0; i < s.inner; ++i) {
        T& value = values[s.Index(o, c, i)];
        FromDouble(ToDouble(value) + 60000, &value);
      }
    }
  }
  return values;
}

TYPED_TEST(DeterminismTest, ChannelsFarFromZeroBesideOthers) {
  std::vector<Shape> shapes = truth::SomeOf(truth::OddShapes());
  for (const Shape& s : {Shape{1000, 64, 1}, {700, 48, 3}, {40, 130, 49}, {3, 5, 9000}}) shapes.push_back(s);
  for (const Shape& s : shapes) {
    SCOPED_TRACE(s.ToString());
    const auto x = WithFarChannels(s, Values<TypeParam>(s.Elements(), 21));
    const auto dy = Values<TypeParam>(s.Elements(), 22);
    const Everything<TypeParam> first(s, x, dy, 1, false);
    ASSERT_TRUE(first.batch_is_both_in_one());
    WithEachImplementation([&] {
      for (const int threads : {1, 3}) {
        ASSERT_TRUE(first == Everything<TypeParam>(s, x, dy, threads, threads == 3)) << "threads " << threads;
      }
    });
  }
}

TYPED_TEST(DeterminismTest, AChannelDoesNotDependOnTheOthers) {
  for (const Shape& s : std::vector<Shape>{{300, 33, 1}, {200, 96, 1}, {70, 5, 3}, {12, 20, 49}, {3, 4, 5000}}) {
    SCOPED_TRACE(s.ToString());
    const auto x = Values<TypeParam>(s.Elements(), 23);
    const auto dy = Values<TypeParam>(s.Elements(), 24);
    const auto channels = static_cast<size_t>(s.num_channels);
    const std::vector<double> gamma = Values<double>(s.num_channels, 25);
    const std::vector<double> beta = Values<double>(s.num_channels, 26);
    struct Outputs {
      std::vector<double> mean, var, inv_std, dgamma, dbeta;
      std::vector<TypeParam> y, dx;
    };
    const auto run = [&](const std::vector<TypeParam>& input, double clip) {
      Outputs out = {std::vector<double>(channels),
                     std::vector<double>(channels),
                     std::vector<double>(channels),
                     std::vector<double>(channels),
                     std::vector<double>(channels),
                     input,
                     input};
      NormalizeBatch(ViewOf(s, input.data()), {.eps = 1e-5, .gamma = gamma, .beta = beta, .clip = clip}, 2,
                     absl::MakeSpan(out.mean), absl::MakeSpan(out.var), MutableViewOf(s, out.y.data()));
      InverseStd(out.var, 1e-5, absl::MakeSpan(out.inv_std));
      Backward(ViewOf(s, input.data()), ViewOf(s, dy.data()),
               {.mean = out.mean, .inv_std = out.inv_std, .gamma = gamma, .beta = beta, .clip = clip},
               GradientMode::kBatch, 2, absl::MakeSpan(out.dgamma), absl::MakeSpan(out.dbeta),
               MutableViewOf(s, out.dx.data()));
      return out;
    };
    for (const double clip : {std::numeric_limits<double>::infinity(), 1.0}) {
      const Outputs alike = run(x, clip);
      const Outputs mixed = run(WithFarChannels(s, x), clip);
      for (int64_t c = 0; c < s.num_channels; ++c) {
        if (c % 3 == 1) continue;
        const auto channel = static_cast<size_t>(c);
        ASSERT_EQ(mixed.mean[channel], alike.mean[channel]);
        ASSERT_EQ(mixed.var[channel], alike.var[channel]);
        ASSERT_EQ(mixed.dgamma[channel], alike.dgamma[channel]);
        for (int64_t o = 0; o < s.outer; ++o) {
          for (int64_t i = 0; i < s.inner; ++i) {
            const auto at = s.Index(o, c, i);
            ASSERT_EQ(ToDouble(mixed.y[at]), ToDouble(alike.y[at])) << "channel " << c << " at " << at;
            ASSERT_EQ(ToDouble(mixed.dx[at]), ToDouble(alike.dx[at])) << "channel " << c << " at " << at;
          }
        }
      }
    }
  }
}

TYPED_TEST(DeterminismTest, LargeTensorsToo) {
  for (const Shape& s : truth::SomeOf(LargeShapes())) {
    SCOPED_TRACE(s.ToString());
    const auto x = Values<TypeParam>(s.Elements(), 3);
    const auto dy = Values<TypeParam>(s.Elements(), 4);
    const Everything<TypeParam> first(s, x, dy, 1, false);
    ASSERT_TRUE(first.batch_is_both_in_one());
    WithEachImplementation([&] {
      for (const int threads : {1, 2, 3, 8}) {
        ASSERT_TRUE(first == Everything<TypeParam>(s, x, dy, threads, threads == 3)) << "threads " << threads;
      }
    });
  }
}

// Large enough for one thread to write past the caches on every machine, also in 16 bits.
TYPED_TEST(DeterminismTest, OutputsPastTheCachesToo) {
  for (const Shape& s : truth::SomeOf(std::vector<Shape>{{7, 40, 12500}, {50001, 70, 1}})) {
    SCOPED_TRACE(s.ToString());
    const auto x = Values<TypeParam>(s.Elements(), 5);
    const auto dy = Values<TypeParam>(s.Elements(), 6);
    const Everything<TypeParam> in_place(s, x, dy, 1, true);
    WithEachImplementation([&] { ASSERT_TRUE(in_place == Everything<TypeParam>(s, x, dy, 1, false)); });
  }
}

TYPED_TEST(DeterminismTest, TheBitsAreThoseOfEveryOtherMachine) {
  WithEachImplementation([] { EXPECT_EQ(bits::GoldenHash<TypeParam>(), bits::kGolden<TypeParam>); });
}

// Every way to cut `outer` gives the bits of the whole, also when the implementation changes on the way.
TYPED_TEST(DeterminismTest, PiecesGiveTheBitsOfTheWhole) {
  std::vector<Shape> shapes = truth::OddShapes();
  for (const Shape& s : {Shape{3000, 70, 1}, {9000, 3, 1}, {700, 3, 5}, {200, 7, 49}, {41, 3, 1000}, {9, 2, 9000}}) {
    shapes.push_back(s);
  }
  std::mt19937 generator(8);
  for (const Shape& s : shapes) {
    const auto x = Values<TypeParam>(s.Elements(), 7);
    const auto channels = static_cast<size_t>(s.num_channels);
    std::vector<double> mean(channels);
    std::vector<double> var(channels);
    BatchStatistics(ViewOf(s, x.data()), 1, absl::MakeSpan(mean), absl::MakeSpan(var));
    for (const int64_t largest : {int64_t{1}, int64_t{3}, int64_t{97}, int64_t{1024}, s.outer}) {
      if (largest == 1 && s.outer > 1000) continue;
      MomentsAccumulator accumulator(s.num_channels, s.inner);
      size_t turn = 0;
      for (int64_t o = 0; o < s.outer;) {
        const auto& all = SupportedImplementations();
        ASSERT_TRUE(UseImplementation(all[turn++ % all.size()]->name));
        const int64_t rows =
            std::min(s.outer - o, std::uniform_int_distribution<int64_t>((largest + 1) / 2, largest)(generator));
        accumulator.Add(NcsView<const TypeParam>{x.data() + s.Index(o, 0, 0), rows, s.num_channels, s.inner},
                        static_cast<int>(turn % 3) + 1);
        o += rows;
        if (turn == 1) {
          // Looking does not disturb.
          std::vector<double> ignored(channels);
          std::vector<double> ignored_too(channels);
          accumulator.Statistics(absl::MakeSpan(ignored), absl::MakeSpan(ignored_too));
        }
      }
      std::vector<double> pieces_mean(channels);
      std::vector<double> pieces_var(channels);
      accumulator.Statistics(absl::MakeSpan(pieces_mean), absl::MakeSpan(pieces_var));
      EXPECT_EQ(accumulator.values_per_channel(), s.PerChannel());
      ASSERT_EQ(pieces_mean, mean) << s.ToString() << " in pieces of at most " << largest;
      ASSERT_EQ(pieces_var, var) << s.ToString() << " in pieces of at most " << largest;
    }
  }
  ASSERT_TRUE(UseImplementation(SupportedImplementations().front()->name));
}

TYPED_TEST(DeterminismTest, AlignmentChangesNothingAndNothingBesideTheTensorIsWritten) {
  for (const Shape& s : std::vector<Shape>{{5, 3, 1}, {130, 67, 1}, {3, 4, 5}, {3, 4, 37}, {6, 20, 49}, {2, 2, 4099}}) {
    SCOPED_TRACE(s.ToString());
    const auto values = Values<TypeParam>(s.Elements(), 9);
    const std::vector<double> gamma(static_cast<size_t>(s.num_channels), 1.25);
    const auto run = [&](const TypeParam* x, TypeParam* y, std::vector<double>* mean, std::vector<double>* var) {
      mean->assign(static_cast<size_t>(s.num_channels), 0);
      var->assign(static_cast<size_t>(s.num_channels), 0);
      NormalizeBatch(ViewOf(s, x), {.gamma = gamma}, 2, absl::MakeSpan(*mean), absl::MakeSpan(*var),
                     MutableViewOf(s, y));
    };
    std::vector<TypeParam> want(values.size());
    std::vector<double> want_mean, want_var, mean, var;
    run(values.data(), want.data(), &want_mean, &want_var);
    WithEachImplementation([&] {
      for (size_t offset = 0; offset < 34; ++offset) {
        std::vector<TypeParam> x(values.size() + 68);
        std::vector<TypeParam> y(values.size() + 68);
        FromDouble(std::numeric_limits<double>::quiet_NaN(), &x.front());
        std::fill(x.begin(), x.end(), x.front());
        FromDouble(77, &y.front());
        std::fill(y.begin(), y.end(), y.front());
        const std::vector<TypeParam> untouched = y;
        std::copy(values.begin(), values.end(), x.begin() + 33 - offset);
        run(&x[33 - offset], &y[offset], &mean, &var);
        ASSERT_EQ(mean, want_mean);
        ASSERT_EQ(var, want_var);
        ASSERT_EQ(std::memcmp(&y[offset], want.data(), want.size() * sizeof(TypeParam)), 0) << offset;
        ASSERT_EQ(std::memcmp(y.data(), untouched.data(), offset * sizeof(TypeParam)), 0);
        ASSERT_EQ(std::memcmp(&y[offset + want.size()], untouched.data(), (68 - offset) * sizeof(TypeParam)), 0);
      }
    });
  }
}

TEST(ImplementationTest, TheListIsOrderedAndEndsWithTheOneThatRunsEverywhere) {
  const auto& all = SupportedImplementations();
  ASSERT_FALSE(all.empty());
  EXPECT_STREQ(all.back()->name, "baseline");
  EXPECT_EQ(&ActiveImplementation(), all.front());
  EXPECT_FALSE(UseImplementation("mmx"));
  EXPECT_EQ(&ActiveImplementation(), all.front());
}

}  // namespace
}  // namespace normd::kernels
