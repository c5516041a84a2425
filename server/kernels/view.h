#ifndef NORMD_SERVER_KERNELS_VIEW_H_
#define NORMD_SERVER_KERNELS_VIEW_H_

#include <cstdint>

namespace normd::kernels {

// A tensor as the kernels see it: element (o, c, i) is data[(o * num_channels + c) * inner + i]. NCHW has inner = H *
// W, channels last and (N, C) have inner = 1.
template <typename T>
struct NcsView {
  T* data = nullptr;
  int64_t outer = 0;
  int64_t num_channels = 0;
  int64_t inner = 0;

  [[gnu::always_inline]] int64_t ValuesPerChannel() const { return outer * inner; }
  [[gnu::always_inline]] int64_t Elements() const { return outer * num_channels * inner; }
};

// How the gradient reaches x: kBatch, mean and inv_std are x's own and depend on it; kConstant, they are constants.
enum class GradientMode { kBatch, kConstant };

}  // namespace normd::kernels

#endif  // NORMD_SERVER_KERNELS_VIEW_H_
