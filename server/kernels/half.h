#ifndef NORMD_SERVER_KERNELS_HALF_H_
#define NORMD_SERVER_KERNELS_HALF_H_

#include <bit>
#include <cstdint>

// 16-bit floating-point numbers as they stand in memory, and their conversions in integer arithmetic: exact on every
// machine, and what the vector code does by instruction (F16C) or by the same bits.
namespace normd::kernels {

// IEEE 754 binary16.
struct Float16 {
  uint16_t bits = 0;
};

// The upper half of a binary32.
struct BFloat16 {
  uint16_t bits = 0;
};

[[gnu::always_inline]] inline float ToFloat(BFloat16 v) {
  return std::bit_cast<float>(static_cast<uint32_t>(v.bits) << 16);
}

[[gnu::always_inline]] inline float ToFloat(Float16 v) {
  const uint32_t sign = static_cast<uint32_t>(v.bits & 0x8000U) << 16;
  const uint32_t magnitude = v.bits & 0x7FFFU;
  if (magnitude >= 0x7C00U) {  // Infinity; NaN, made quiet.
    const uint32_t quiet = magnitude > 0x7C00U ? 0x400000U : 0U;
    return std::bit_cast<float>(sign | 0x7F800000U | quiet | (magnitude & 0x3FFU) << 13);
  }
  if (magnitude < 0x400U) {  // Zero and subnormal: magnitude * 2^-24.
    const float value = static_cast<float>(magnitude) * 0x1p-24F;
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(value));
  }
  return std::bit_cast<float>(sign | ((magnitude << 13) + 0x38000000U));
}

// Rounds to nearest, ties to even; NaN becomes quiet and keeps its upper bits.
[[gnu::always_inline]] inline BFloat16 ToBFloat16(float v) {
  const auto bits = std::bit_cast<uint32_t>(v);
  if ((bits & 0x7FFFFFFFU) > 0x7F800000U) return {static_cast<uint16_t>(bits >> 16 | 0x40U)};
  return {static_cast<uint16_t>((bits + 0x7FFFU + (bits >> 16 & 1U)) >> 16)};
}

// Rounds to nearest, ties to even; beyond 65520 infinity; NaN becomes quiet and keeps its upper bits.
[[gnu::always_inline]] inline Float16 ToFloat16(float v) {
  const auto bits = std::bit_cast<uint32_t>(v);
  const uint32_t sign = bits >> 16 & 0x8000U;
  const uint32_t magnitude = bits & 0x7FFFFFFFU;
  uint32_t half = 0;
  if (magnitude > 0x7F800000U) {
    half = 0x7E00U | (magnitude >> 13 & 0x3FFU);
  } else if (magnitude >= 0x477FF000U) {  // 65520, half way between the largest finite number and 2^16.
    half = 0x7C00U;
  } else if (magnitude < 0x38800000U) {
    // Below 2^-14: the sum with 0.5 has its last place at 2^-24, the subnormals' unit, and is rounded to it.
    half = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5F) - 0x3F000000U;
  } else {
    half = (magnitude - 0x38000000U + 0xFFFU + (magnitude >> 13 & 1U)) >> 13;
  }
  return {static_cast<uint16_t>(sign | half)};
}

// One element of any type to float64 (exact) and back: float32 rounds once, the 16-bit types round to float32 first.
[[gnu::always_inline]] inline double ToDouble(double v) { return v; }
[[gnu::always_inline]] inline double ToDouble(float v) { return v; }
[[gnu::always_inline]] inline double ToDouble(Float16 v) { return ToFloat(v); }
[[gnu::always_inline]] inline double ToDouble(BFloat16 v) { return ToFloat(v); }

[[gnu::always_inline]] inline void FromDouble(double v, double* out) { *out = v; }
[[gnu::always_inline]] inline void FromDouble(double v, float* out) { *out = static_cast<float>(v); }
[[gnu::always_inline]] inline void FromDouble(double v, Float16* out) { *out = ToFloat16(static_cast<float>(v)); }
[[gnu::always_inline]] inline void FromDouble(double v, BFloat16* out) { *out = ToBFloat16(static_cast<float>(v)); }

}  // namespace normd::kernels

#endif  // NORMD_SERVER_KERNELS_HALF_H_
