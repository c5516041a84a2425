#include "server/kernels/extremes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "server/kernels/half.h"
#include "tests/non_finite.h"
#include "tests/server/kernels/element_types.h"
#include "tests/server/kernels/truth.h"

namespace normd::kernels {
namespace {

using ::testing::ElementsAre;
using tests::kInf;
using truth::Shape;
using truth::ViewOf;

template <typename T>
T Rounded(double value) {
  T rounded;
  FromDouble(value, &rounded);
  return rounded;
}

// Every element looked at on its own.
template <typename T>
void ExpectExtremes(const Shape& s, const T* x) {
  std::vector<double> min(s.num_channels, kInf);
  std::vector<double> max(s.num_channels, -kInf);
  WidenExtremes(ViewOf(s, x), absl::MakeSpan(min), absl::MakeSpan(max));
  for (int64_t c = 0; c < s.num_channels; ++c) {
    double want_min = kInf;
    double want_max = -kInf;
    for (int64_t o = 0; o < s.outer; ++o) {
      for (int64_t i = 0; i < s.inner; ++i) {
        want_min = std::fmin(want_min, ToDouble(x[s.Index(o, c, i)]));
        want_max = std::fmax(want_max, ToDouble(x[s.Index(o, c, i)]));
      }
    }
    ASSERT_EQ(min[c], want_min) << s.ToString() << " channel " << c;
    ASSERT_EQ(max[c], want_max) << s.ToString() << " channel " << c;
  }
}

template <typename T>
class ExtremesTest : public ::testing::Test {};
TYPED_TEST_SUITE(ExtremesTest, ElementTypes);

TYPED_TEST(ExtremesTest, OfEveryOddShape) {
  std::vector<Shape> shapes = truth::OddShapes();
  for (int64_t inner = 60; inner <= 70; ++inner) shapes.push_back({2, 3, inner});
  for (const Shape& s : shapes) {
    // One element before the tensor, so that it is aligned to the element and to nothing else.
    std::vector<TypeParam> x;
    for (const double v : truth::Noise<double>(s.Elements() + 1, 7)) x.push_back(Rounded<TypeParam>(v));
    ExpectExtremes(s, x.data() + 1);
  }
}

TYPED_TEST(ExtremesTest, WhereverTheyStand) {
  for (const Shape& s : {Shape{1, 1, 200}, Shape{200, 1, 1}, Shape{3, 5, 7}}) {
    for (int64_t at = 0; at < s.Elements(); ++at) {
      for (const double extreme : {-5.0, 5.0, -kInf, kInf}) {
        std::vector<TypeParam> x(static_cast<size_t>(s.Elements()), Rounded<TypeParam>(1));
        x[static_cast<size_t>(at)] = Rounded<TypeParam>(extreme);
        ExpectExtremes(s, x.data());
      }
    }
  }
}

TYPED_TEST(ExtremesTest, OfOneSign) {
  const Shape s{40, 2, 3};
  for (const double sign : {-1.0, 1.0}) {
    std::vector<TypeParam> x;
    for (int64_t i = 0; i < s.Elements(); ++i) x.push_back(Rounded<TypeParam>(sign * static_cast<double>(1 + i % 50)));
    ExpectExtremes(s, x.data());
  }
}

TYPED_TEST(ExtremesTest, WidenWhatIsThere) {
  const std::vector<TypeParam> x = {Rounded<TypeParam>(1), Rounded<TypeParam>(2)};
  std::vector<double> min = {-4, 7};
  std::vector<double> max = {-4, 7};
  WidenExtremes(ViewOf({1, 2, 1}, x.data()), absl::MakeSpan(min), absl::MakeSpan(max));
  EXPECT_THAT(min, ElementsAre(-4, 2));
  EXPECT_THAT(max, ElementsAre(1, 7));
}

// Every 16-bit number that is one, against every order of two.
template <typename T>
void ExpectOrdered() {
  std::vector<T> numbers;
  for (uint32_t bits = 0; bits <= 0xFFFF; ++bits) {
    const T number{static_cast<uint16_t>(bits)};
    if (!std::isnan(ToFloat(number))) numbers.push_back(number);
  }
  std::sort(numbers.begin(), numbers.end(), [](T a, T b) { return ToFloat(a) < ToFloat(b); });
  for (size_t i = 0; i + 1 < numbers.size(); ++i) {
    for (const bool swap : {false, true}) {
      const T pair[] = {numbers[i + (swap ? 1 : 0)], numbers[i + (swap ? 0 : 1)]};
      double min = kInf;
      double max = -kInf;
      WidenExtremes(ViewOf({2, 1, 1}, pair), absl::MakeSpan(&min, 1), absl::MakeSpan(&max, 1));
      ASSERT_EQ(min, ToDouble(numbers[i]));
      ASSERT_EQ(max, ToDouble(numbers[i + 1]));
    }
  }
}

TEST(ExtremesOrderTest, EverySixteenBitNumberHasItsPlace) {
  ExpectOrdered<Float16>();
  ExpectOrdered<BFloat16>();
}

}  // namespace
}  // namespace normd::kernels
