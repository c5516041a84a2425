#ifndef NORMD_SERVER_KERNELS_ELEMENTS_H_
#define NORMD_SERVER_KERNELS_ELEMENTS_H_

#include <array>
#include <cmath>
#include <cstdint>

// What happens to one element, in double: the Ops that segments.h and columns.h walk with. NaN passes every comparison
// here as "not beyond the bound".
namespace normd::kernels {

// sum(x - shift), for the mean. params: shift.
template <typename T>
struct Deviation {
  static constexpr int kParams = 1;
  static constexpr int kSums = 1;
  const T* x;
  std::array<double, 1> operator()(int64_t i, const std::array<double, 1>& p) const {
    return {static_cast<double>(x[i]) - p[0]};
  }
};

// sum((x - center)^2) and sum(x - center), which corrects the first for the rounding of the center. params: center.
template <typename T>
struct SquaredDeviation {
  static constexpr int kParams = 1;
  static constexpr int kSums = 2;
  const T* x;
  std::array<double, 2> operator()(int64_t i, const std::array<double, 1>& p) const {
    const double d = static_cast<double>(x[i]) - p[0];
    return {d * d, d};
  }
};

// y = (x - mean) * scale + beta. params: mean, scale = gamma * inv_std, beta.
template <typename T>
struct Normalized {
  static constexpr int kParams = 3;
  const T* x;
  double operator()(int64_t i, const std::array<double, 3>& p) const {
    return (static_cast<double>(x[i]) - p[0]) * p[1] + p[2];
  }
};

inline double Clamp(double v, double bound) {
  const double below = v > bound ? bound : v;
  return below < -bound ? -bound : below;
}

// y = gamma * clamp((x - mean) * inv_std) + beta. params: mean, inv_std, gamma, beta.
template <typename T>
struct ClippedNormalized {
  static constexpr int kParams = 4;
  const T* x;
  double clip;
  double operator()(int64_t i, const std::array<double, 4>& p) const {
    return p[2] * Clamp((static_cast<double>(x[i]) - p[0]) * p[1], clip) + p[3];
  }
};

// x = (y - beta) * width + mean. params: beta, width = 1 / (gamma * inv_std), mean.
template <typename T>
struct Denormalized {
  static constexpr int kParams = 3;
  const T* y;
  double operator()(int64_t i, const std::array<double, 3>& p) const {
    return (static_cast<double>(y[i]) - p[0]) * p[1] + p[2];
  }
};

// sum(dy) and sum(dy * (x - mean)). params: mean, inv_std.
template <typename T>
struct GradientTerms {
  static constexpr int kParams = 2;
  static constexpr int kSums = 2;
  const T* x;
  const T* dy;
  std::array<double, 2> operator()(int64_t i, const std::array<double, 2>& p) const {
    const double g = dy[i];
    return {g, g * (static_cast<double>(x[i]) - p[0])};
  }
};

// With clip: sum(dy), sum(dy * clamp(x_hat)), sum(g) and sum(g * x_hat), g = 0 beyond the bound. params: mean, inv_std.
template <typename T>
struct ClippedGradientTerms {
  static constexpr int kParams = 2;
  static constexpr int kSums = 4;
  const T* x;
  const T* dy;
  double clip;
  std::array<double, 4> operator()(int64_t i, const std::array<double, 2>& p) const {
    const double g = dy[i];
    const double x_hat = (static_cast<double>(x[i]) - p[0]) * p[1];
    const bool beyond = std::fabs(x_hat) > clip;
    return {g, g * Clamp(x_hat, clip), beyond ? 0.0 : g, beyond ? 0.0 : g * x_hat};
  }
};

// dx = scale * (g - mean_g - (x - mean) * slope), g = 0 beyond the bound.
// params: mean, inv_std, scale = gamma * inv_std, mean_g = sum(g) / n, slope = inv_std * sum(g * x_hat) / n.
template <typename T, bool kClip>
struct BatchGradient {
  static constexpr int kParams = 5;
  const T* x;
  const T* dy;
  double clip;
  double operator()(int64_t i, const std::array<double, 5>& p) const {
    const double d = static_cast<double>(x[i]) - p[0];
    double g = dy[i];
    if constexpr (kClip) g = std::fabs(d * p[1]) > clip ? 0.0 : g;
    return p[2] * (g - p[3] - d * p[4]);
  }
};

// dx = scale * g, g = 0 beyond the bound. params: mean, inv_std, scale = gamma * inv_std.
template <typename T, bool kClip>
struct ConstantGradient {
  static constexpr int kParams = 3;
  const T* x;
  const T* dy;
  double clip;
  double operator()(int64_t i, const std::array<double, 3>& p) const {
    double g = dy[i];
    if constexpr (kClip) g = std::fabs((static_cast<double>(x[i]) - p[0]) * p[1]) > clip ? 0.0 : g;
    return p[2] * g;
  }
};

}  // namespace normd::kernels

#endif  // NORMD_SERVER_KERNELS_ELEMENTS_H_
