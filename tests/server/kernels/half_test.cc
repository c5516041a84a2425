#include "server/kernels/half.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "server/kernels/batch_norm.h"
#include "tests/server/kernels/implementations.h"

namespace normd::kernels {
namespace {

// IEEE 754's words: sign, biased exponent, fraction.
double Float16FromDefinition(uint16_t bits) {
  const int exponent = bits >> 10 & 31;
  const int fraction = bits & 1023;
  const double sign = (bits & 0x8000) != 0 ? -1 : 1;
  if (exponent == 31) return fraction == 0 ? sign * HUGE_VAL : std::nan("");
  if (exponent == 0) return sign * std::ldexp(fraction, -24);
  return sign * std::ldexp(1024 + fraction, exponent - 25);
}

double BFloat16FromDefinition(uint16_t bits) {
  const int exponent = bits >> 7 & 255;
  const int fraction = bits & 127;
  const double sign = (bits & 0x8000) != 0 ? -1 : 1;
  if (exponent == 255) return fraction == 0 ? sign * HUGE_VAL : std::nan("");
  if (exponent == 0) return sign * std::ldexp(fraction, -133);
  return sign * std::ldexp(128 + fraction, exponent - 134);
}

TEST(HalfTest, EveryNumberMeansWhatTheFormatsSay) {
  for (uint32_t bits = 0; bits <= 0xFFFF; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const double f16 = Float16FromDefinition(half);
    const double bf16 = BFloat16FromDefinition(half);
    if (std::isnan(f16)) {
      ASSERT_TRUE(std::isnan(ToFloat(Float16{half})));
    } else {
      ASSERT_EQ(ToFloat(Float16{half}), f16) << bits;
      ASSERT_EQ(ToFloat16(static_cast<float>(f16)).bits, half);
    }
    if (std::isnan(bf16)) {
      ASSERT_TRUE(std::isnan(ToFloat(BFloat16{half})));
    } else {
      ASSERT_EQ(ToFloat(BFloat16{half}), bf16) << bits;
      ASSERT_EQ(ToBFloat16(static_cast<float>(bf16)).bits, half);
    }
  }
}

// Between two neighbours: the nearer one, and from the middle the one with an even last bit.
template <typename Half, typename Convert, typename Meaning>
void ExpectNearest(uint16_t low, Convert convert, Meaning meaning) {
  const auto high = static_cast<uint16_t>(low + 1);
  const double below = meaning(low);
  const double above = std::isinf(meaning(high)) ? 2 * below - meaning(static_cast<uint16_t>(low - 1)) : meaning(high);
  const auto middle = static_cast<float>((below + above) / 2);
  ASSERT_EQ(middle, (below + above) / 2) << "the middle is a float";
  const uint16_t even = low % 2 == 0 ? low : high;
  for (const float sign : {1.0F, -1.0F}) {
    const uint16_t bit = sign < 0 ? 0x8000 : 0;
    ASSERT_EQ(convert(sign * middle).bits, even | bit) << low;
    ASSERT_EQ(convert(sign * std::nextafter(middle, 0.0F)).bits, low | bit) << low;
    ASSERT_EQ(convert(sign * std::nextafter(middle, HUGE_VALF)).bits, high | bit) << low;
  }
}

TEST(HalfTest, RoundsToNearestEven) {
  for (uint16_t low = 0; low < 0x7C00; ++low) {
    ExpectNearest<Float16>(
        low, [](float v) { return ToFloat16(v); }, &Float16FromDefinition);
  }
  for (uint16_t low = 1; low < 0x7F80; ++low) {
    ExpectNearest<BFloat16>(
        low, [](float v) { return ToBFloat16(v); }, &BFloat16FromDefinition);
  }
}

TEST(HalfTest, NaNStaysNaN) {
  for (const uint32_t bits : {0x7F800001U, 0x7FC00000U, 0xFF812345U, 0x7FFFFFFFU}) {
    const auto nan = std::bit_cast<float>(bits);
    EXPECT_TRUE(std::isnan(ToFloat(ToFloat16(nan))));
    EXPECT_TRUE(std::isnan(ToFloat(ToBFloat16(nan))));
  }
}

// The vector code's conversions against those above, over every number as input and many floats as output.
template <typename Half>
void ExpectVectorsConvertAlike() {
  std::vector<Half> x(0x10000);
  for (size_t i = 0; i < x.size(); ++i) x[i].bits = static_cast<uint16_t>(i);
  const auto count = static_cast<int64_t>(x.size());
  std::vector<Half> y(x.size());
  for (const double factor : {1.0, 1.0009765625, 3.1415926535, 1e-3, 0.4999, 1e6, 6.1e-5}) {
    WithEachImplementation([&] {
      Normalize<Half>({x.data(), 1, 1, count}, {.mean = {0.0}, .inv_std = {factor}}, 1, {y.data(), 1, 1, count});
      for (size_t i = 0; i < x.size(); ++i) {
        Half want;
        FromDouble(ToDouble(x[i]) * factor, &want);
        if (std::isnan(ToDouble(want))) {
          ASSERT_TRUE(std::isnan(ToDouble(y[i]))) << i;
        } else {
          // x + 0 is +0 for -0.
          ASSERT_EQ(y[i].bits == 0x8000 ? 0 : y[i].bits, want.bits == 0x8000 ? 0 : want.bits) << i << " * " << factor;
        }
      }
    });
  }
}

TEST(HalfTest, VectorsConvertAlike) {
  ExpectVectorsConvertAlike<Float16>();
  ExpectVectorsConvertAlike<BFloat16>();
}

}  // namespace
}  // namespace normd::kernels
