#ifndef NORMD_SERVER_KERNELS_IMPLEMENTATION_H_
#define NORMD_SERVER_KERNELS_IMPLEMENTATION_H_

#include <cstdint>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "server/kernels/half.h"
#include "server/kernels/view.h"

// The implementations of batch_norm.h, one for each instruction set, and which of them runs. All give the same bits
// (order.h), so the choice is one of speed alone.
namespace normd::kernels {

// ChannelParams without the spans. gamma and beta may be null: 1 and 0.
struct RawParams {
  const double* mean;
  const double* inv_std;
  const double* gamma;
  const double* beta;
  double clip;
};

// What NormalizeBatch is given and what it makes.
struct BatchCall {
  const double* gamma;
  const double* beta;
  double eps;
  double clip;
  double* mean;
  double* var;
};

struct BackwardCall {
  RawParams params;
  GradientMode mode;
  double* dgamma;
  double* dbeta;
};

// The sums of a tensor that comes in pieces along `outer`; what the arrays hold depends on `inner` (moments.h).
struct MomentsState {
  int64_t num_channels;
  int64_t inner;
  // Rows of `outer` taken in.
  int64_t outer;
  // The value of each channel that sums are taken from.
  double* shift;
  // By rows: kLanes running lanes per sum and channel, and sum and error of the finished blocks. By columns: of each
  // sum, the open block and totals and errors of the finished ones.
  double* open;
  double* totals;
};

// The same, only read.
struct FinishedMoments {
  int64_t num_channels;
  int64_t inner;
  int64_t outer;
  const double* shift;
  const double* open;
  const double* totals;
};

// batch_norm.h for elements of type T, after its checks.
template <typename T>
struct Functions {
  void (*batch_statistics)(const NcsView<const T>& x, int threads, double* mean, double* var);
  void (*normalize_batch)(const NcsView<const T>& x, const BatchCall& call, int threads, T* y);
  void (*normalize)(const NcsView<const T>& x, const RawParams& params, int threads, T* y);
  void (*denormalize)(const NcsView<const T>& y, const RawParams& params, int threads, T* x);
  void (*backward)(const NcsView<const T>& x, const T* dy, const BackwardCall& call, int threads, T* dx);
  void (*add_moments)(const NcsView<const T>& piece, int threads, MomentsState* state);
};

struct Implementation {
  // "avx512", "avx2", "baseline" (SSE2 on x86-64, NEON on aarch64).
  const char* name;
  bool (*supported)();
  Functions<float> f32;
  Functions<double> f64;
  Functions<Float16> f16;
  Functions<BFloat16> bf16;
  void (*inverse_std)(const double* var, int64_t count, double eps, double* inv_std);
  // Doubles that `open` and `totals` of a MomentsState have.
  void (*moments_sizes)(int64_t num_channels, int64_t inner, int64_t* open, int64_t* totals);
  void (*finish_moments)(const FinishedMoments& moments, double* mean, double* var);

  template <typename T>
  const Functions<T>& For() const;
};

template <>
inline const Functions<float>& Implementation::For<float>() const {
  return f32;
}
template <>
inline const Functions<double>& Implementation::For<double>() const {
  return f64;
}
template <>
inline const Functions<Float16>& Implementation::For<Float16>() const {
  return f16;
}
template <>
inline const Functions<BFloat16>& Implementation::For<BFloat16>() const {
  return bf16;
}

// Those that this machine can run, best first; the last one runs everywhere.
absl::Span<const Implementation* const> SupportedImplementations();

// The one that runs: the first of SupportedImplementations, unless UseImplementation chose another.
const Implementation& ActiveImplementation();

// Chooses by name, for tests and benchmarks; false if this machine cannot run it. Thread-safe; calls that run go on
// with what they began with.
bool UseImplementation(absl::string_view name);

}  // namespace normd::kernels

#endif  // NORMD_SERVER_KERNELS_IMPLEMENTATION_H_
