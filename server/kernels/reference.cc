#include "server/kernels/reference.h"

#include <cmath>
#include <cstdint>

#include "absl/types/span.h"
#include "server/kernels/batch_norm.h"

namespace normd::kernels::reference {
namespace {

// f(index) for every element of channel c.
template <typename V, typename F>
void ForEachElement(const NcsView<V>& view, int64_t c, const F& f) {
  for (int64_t o = 0; o < view.outer; ++o) {
    for (int64_t i = 0; i < view.inner; ++i) f((o * view.num_channels + c) * view.inner + i);
  }
}

double GammaAt(const ChannelParams& params, int64_t c) { return params.gamma.empty() ? 1.0 : params.gamma[c]; }
double BetaAt(const ChannelParams& params, int64_t c) { return params.beta.empty() ? 0.0 : params.beta[c]; }

// A comparison with NaN is false, so NaN stays.
double Clip(double x_hat, double clip) {
  if (x_hat > clip) return clip;
  if (x_hat < -clip) return -clip;
  return x_hat;
}

}  // namespace

template <typename T>
void BatchStatistics(NcsView<const T> x, absl::Span<double> batch_mean, absl::Span<double> batch_var) {
  const auto n = static_cast<double>(x.ValuesPerChannel());
  for (int64_t c = 0; c < x.num_channels; ++c) {
    const double first = ToDouble(x.data[c * x.inner]);
    const double shift = std::isfinite(first) ? first : 0.0;
    double sum = 0;
    ForEachElement(x, c, [&](int64_t i) { sum += ToDouble(x.data[i]) - shift; });
    const double center = shift + sum / n;
    double squares = 0;
    double rest = 0;
    ForEachElement(x, c, [&](int64_t i) {
      const double d = ToDouble(x.data[i]) - center;
      squares += d * d;
      rest += d;
    });
    const double m2 = squares - rest * rest / n;
    batch_mean[c] = std::isfinite(center) ? center + rest / n : center;
    batch_var[c] = (m2 < 0 ? 0.0 : m2) / n;
  }
}

template <typename T>
void Normalize(NcsView<const T> x, const ChannelParams& params, NcsView<T> y) {
  for (int64_t c = 0; c < x.num_channels; ++c) {
    ForEachElement(x, c, [&](int64_t i) {
      const double x_hat = Clip((ToDouble(x.data[i]) - params.mean[c]) * params.inv_std[c], params.clip);
      FromDouble(GammaAt(params, c) * x_hat + BetaAt(params, c), &y.data[i]);
    });
  }
}

template <typename T>
void Denormalize(NcsView<const T> y, const ChannelParams& params, NcsView<T> x) {
  for (int64_t c = 0; c < y.num_channels; ++c) {
    const double scale = GammaAt(params, c) * params.inv_std[c];
    ForEachElement(y, c, [&](int64_t i) {
      FromDouble((ToDouble(y.data[i]) - BetaAt(params, c)) / scale + params.mean[c], &x.data[i]);
    });
  }
}

template <typename T>
void Backward(NcsView<const T> x, NcsView<const T> dy, const ChannelParams& params, GradientMode mode,
              absl::Span<double> dgamma, absl::Span<double> dbeta, NcsView<T> dx) {
  const auto n = static_cast<double>(x.ValuesPerChannel());
  for (int64_t c = 0; c < x.num_channels; ++c) {
    dgamma[c] = 0;
    dbeta[c] = 0;
    if (std::isnan(params.mean[c])) {
      if (dx.data != nullptr) ForEachElement(dx, c, [&](int64_t i) { dx.data[i] = T{}; });
      continue;
    }
    const auto x_hat = [&](int64_t i) { return (ToDouble(x.data[i]) - params.mean[c]) * params.inv_std[c]; };
    const auto held_back = [&](int64_t i) { return std::abs(x_hat(i)) > params.clip; };
    double sum_g = 0;
    double sum_g_x_hat = 0;
    ForEachElement(x, c, [&](int64_t i) {
      const double g = ToDouble(dy.data[i]);
      dbeta[c] += g;
      dgamma[c] += g * Clip(x_hat(i), params.clip);
      if (held_back(i)) return;
      sum_g += g;
      sum_g_x_hat += g * x_hat(i);
    });
    if (dx.data == nullptr) continue;
    const double scale = GammaAt(params, c) * params.inv_std[c];
    ForEachElement(x, c, [&](int64_t i) {
      double gradient = held_back(i) ? 0.0 : ToDouble(dy.data[i]);
      if (mode == GradientMode::kBatch) gradient -= sum_g / n + x_hat(i) * (sum_g_x_hat / n);
      FromDouble(scale * gradient, &dx.data[i]);
    });
  }
}

#define NORMD_INSTANTIATE(T)                                                                        \
  template void BatchStatistics<T>(NcsView<const T>, absl::Span<double>, absl::Span<double>);       \
  template void Normalize<T>(NcsView<const T>, const ChannelParams&, NcsView<T>);                   \
  template void Denormalize<T>(NcsView<const T>, const ChannelParams&, NcsView<T>);                 \
  template void Backward<T>(NcsView<const T>, NcsView<const T>, const ChannelParams&, GradientMode, \
                            absl::Span<double>, absl::Span<double>, NcsView<T>)
NORMD_INSTANTIATE(float);
NORMD_INSTANTIATE(double);
NORMD_INSTANTIATE(Float16);
NORMD_INSTANTIATE(BFloat16);
#undef NORMD_INSTANTIATE

}  // namespace normd::kernels::reference
