#ifndef NORMD_TESTS_SERVER_KERNELS_TRUTH_H_
#define NORMD_TESTS_SERVER_KERNELS_TRUTH_H_

#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "server/kernels/batch_norm.h"

// What the tests judge the kernels by: the published formulas in 80-bit long double, one channel gathered into a vector
// at a time. Shares nothing with server/kernels but the view.
namespace normd::kernels::truth {

struct Shape {
  int64_t outer;
  int64_t num_channels;
  int64_t inner;

  int64_t Elements() const { return outer * num_channels * inner; }
  int64_t PerChannel() const { return outer * inner; }
  int64_t Index(int64_t o, int64_t c, int64_t i) const { return (o * num_channels + c) * inner + i; }
  std::string ToString() const {
    return "(" + std::to_string(outer) + "," + std::to_string(num_channels) + "," + std::to_string(inner) + ")";
  }
};

template <typename T>
NcsView<const T> ViewOf(const Shape& s, const T* data) {
  return {data, s.outer, s.num_channels, s.inner};
}
template <typename T>
NcsView<T> MutableViewOf(const Shape& s, T* data) {
  return {data, s.outer, s.num_channels, s.inner};
}

template <typename T>
std::vector<long double> Channel(const Shape& s, const T* data, int64_t c) {
  std::vector<long double> values;
  for (int64_t o = 0; o < s.outer; ++o) {
    for (int64_t i = 0; i < s.inner; ++i) values.push_back(data[s.Index(o, c, i)]);
  }
  return values;
}

struct Moments {
  long double mean = 0;
  long double var = 0;
};

inline Moments MomentsOf(const std::vector<long double>& values) {
  const auto n = static_cast<long double>(values.size());
  Moments m;
  for (long double v : values) m.mean += v - values[0];
  m.mean = values[0] + m.mean / n;
  for (long double v : values) m.var += (v - m.mean) * (v - m.mean);
  m.var /= n;
  return m;
}

inline long double Clip(long double v, long double bound) { return std::fmax(-bound, std::fmin(bound, v)); }

// Gradients of one channel by the chain rule, term by term: y = gamma * clip(x_hat) + beta.
struct Gradients {
  long double dgamma = 0;
  long double dbeta = 0;
  std::vector<long double> dx;
};

inline Gradients GradientsOf(const std::vector<long double>& x, const std::vector<long double>& dy, long double mean,
                             long double inv_std, long double gamma, long double clip, GradientMode mode) {
  const auto n = static_cast<long double>(x.size());
  Gradients g;
  // By x_hat, then through var and mean as in Ioffe & Szegedy 2015, section 3.
  std::vector<long double> dx_hat(x.size());
  long double dvar = 0;
  long double dmean = 0;
  long double sum_d = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const long double d = x[i] - mean;
    const long double x_hat = d * inv_std;
    g.dbeta += dy[i];
    g.dgamma += dy[i] * Clip(x_hat, clip);
    dx_hat[i] = std::fabs(x_hat) > clip ? 0 : dy[i] * gamma;
    dvar += dx_hat[i] * d * -0.5L * inv_std * inv_std * inv_std;
    dmean -= dx_hat[i] * inv_std;
    sum_d += d;
  }
  dmean -= dvar * 2 * sum_d / n;
  for (size_t i = 0; i < x.size(); ++i) {
    long double dx = dx_hat[i] * inv_std;
    if (mode == GradientMode::kBatch) dx += dvar * 2 * (x[i] - mean) / n + dmean / n;
    g.dx.push_back(dx);
  }
  return g;
}

// Normal noise around a mean that differs by channel.
template <typename T>
std::vector<T> Noise(int64_t count, uint32_t seed, double mean = 0, double std = 1) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal(mean, std);
  std::vector<T> values(static_cast<size_t>(count));
  for (T& v : values) v = static_cast<T>(normal(generator));
  return values;
}

// Sanitized builds take fewer of many shapes: all would be minutes in code as slow as theirs.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr size_t kShapeStep = 3;
#else
constexpr size_t kShapeStep = 1;
#endif

inline std::vector<Shape> SomeOf(const std::vector<Shape>& shapes) {
  std::vector<Shape> some;
  for (size_t i = 0; i < shapes.size(); i += kShapeStep) some.push_back(shapes[i]);
  return some;
}

// Shapes around every border that a blocked walk may have: lanes, tiles, tails, rows that do not fill a block, one of
// everything.
inline std::vector<Shape> OddShapes() {
  std::vector<Shape> shapes;
  for (int64_t inner = 1; inner <= 36; ++inner) shapes.push_back({3, 2, inner});
  for (int64_t outer = 1; outer <= 20; ++outer) shapes.push_back({outer, 3, 1});
  for (int64_t channels : {1, 2, 5, 31, 63, 64, 65, 127, 1023, 1024, 1025, 2050}) shapes.push_back({7, channels, 1});
  for (int64_t outer : {1, 63, 64, 65, 127, 128, 129, 255, 257, 515, 8193}) shapes.push_back({outer, 1, 1});
  for (int64_t outer : {127, 128, 129, 131, 300}) shapes.push_back({outer, 70, 1});
  for (int64_t inner : {4095, 4096, 4097, 8192, 9001}) shapes.push_back({2, 3, inner});
  for (int64_t inner : {15, 16, 17, 49, 196, 1000}) shapes.push_back({33, 67, inner});
  shapes.insert(shapes.end(),
                {{1, 1, 1}, {1, 7, 1}, {1, 1, 5000}, {300, 1, 17}, {90, 2, 50}, {2, 700, 3}, {2, 130, 16}});
  return SomeOf(shapes);
}

}  // namespace normd::kernels::truth

#endif  // NORMD_TESTS_SERVER_KERNELS_TRUTH_H_
