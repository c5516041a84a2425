#include "server/registry/tensor_kernels.h"

#include <cstdint>
#include <cstring>

namespace normd::registry {
namespace {

// Calls f with a value of the element type.
template <typename F>
void WithElement(layer::DType dtype, F f) {
  switch (dtype) {
    case layer::DType::kFloat32:
      return f(float{});
    case layer::DType::kFloat64:
      return f(double{});
    case layer::DType::kFloat16:
      return f(kernels::Float16{});
    case layer::DType::kBFloat16:
      return f(kernels::BFloat16{});
  }
}

}  // namespace

KernelInput::KernelInput(const layer::TensorView& tensor, const layer::NcsShape& ncs)
    : dtype_(tensor.dtype), ncs_(ncs), data_(tensor.data.data()) {
  const auto alignment = static_cast<uintptr_t>(layer::ElementBytes(dtype_));
  if (reinterpret_cast<uintptr_t>(data_) % alignment == 0) return;
  // new[] of char is aligned for every fundamental type.
  copy_.reset(new char[tensor.data.size()]);
  std::memcpy(copy_.get(), data_, tensor.data.size());
  data_ = copy_.get();
}

void BatchStatistics(const KernelInput& x, int threads, absl::Span<double> batch_mean, absl::Span<double> batch_var) {
  WithElement(x.dtype(), [&](auto element) {
    using T = decltype(element);
    kernels::BatchStatistics<T>(x.As<T>(), threads, batch_mean, batch_var);
  });
}

void AddMoments(const KernelInput& piece, int threads, kernels::MomentsAccumulator* moments) {
  WithElement(piece.dtype(), [&](auto element) {
    using T = decltype(element);
    moments->Add<T>(piece.As<T>(), threads);
  });
}

void NormalizeBatch(const KernelInput& x, const kernels::BatchOptions& options, int threads,
                    absl::Span<double> batch_mean, absl::Span<double> batch_var, char* y) {
  WithElement(x.dtype(), [&](auto element) {
    using T = decltype(element);
    kernels::NormalizeBatch<T>(x.As<T>(), options, threads, batch_mean, batch_var, x.Like<T>(y));
  });
}

void Normalize(const KernelInput& x, const kernels::ChannelParams& params, int threads, char* y) {
  WithElement(x.dtype(), [&](auto element) {
    using T = decltype(element);
    kernels::Normalize<T>(x.As<T>(), params, threads, x.Like<T>(y));
  });
}

void Denormalize(const KernelInput& y, const kernels::ChannelParams& params, int threads, char* x) {
  WithElement(y.dtype(), [&](auto element) {
    using T = decltype(element);
    kernels::Denormalize<T>(y.As<T>(), params, threads, y.Like<T>(x));
  });
}

void Backward(const KernelInput& x, const KernelInput& dy, const kernels::ChannelParams& params,
              kernels::GradientMode mode, int threads, absl::Span<double> dgamma, absl::Span<double> dbeta, char* dx) {
  WithElement(x.dtype(), [&](auto element) {
    using T = decltype(element);
    kernels::Backward<T>(x.As<T>(), dy.As<T>(), params, mode, threads, dgamma, dbeta, x.Like<T>(dx));
  });
}

}  // namespace normd::registry
