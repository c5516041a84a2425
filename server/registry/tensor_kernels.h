#ifndef NORMD_SERVER_REGISTRY_TENSOR_KERNELS_H_
#define NORMD_SERVER_REGISTRY_TENSOR_KERNELS_H_

#include <memory>

#include "absl/types/span.h"
#include "server/kernels/batch_norm.h"
#include "server/layer/tensor.h"

// The kernels on tensors whose element type is known only at run time. Contracts as in server/kernels/batch_norm.h; an
// output has the size of the input and is aligned to its element.
namespace normd::registry {

// A checked tensor as the kernels read it: copied if its bytes are not aligned to the element, which is rare.
class KernelInput {
 public:
  // REQUIRES: `ncs` is what CheckTensor returned for `tensor`, whose data outlives this.
  KernelInput(const layer::TensorView& tensor, const layer::NcsShape& ncs);

  layer::DType dtype() const { return dtype_; }
  int64_t ValuesPerChannel() const { return ncs_.outer * ncs_.inner; }

  template <typename T>
  kernels::NcsView<const T> As() const {
    return {reinterpret_cast<const T*>(data_), ncs_.outer, ncs_.num_channels, ncs_.inner};
  }
  // The same extents over another buffer of the same type.
  template <typename T>
  kernels::NcsView<T> Like(char* data) const {
    return {reinterpret_cast<T*>(data), ncs_.outer, ncs_.num_channels, ncs_.inner};
  }

 private:
  layer::DType dtype_;
  layer::NcsShape ncs_;
  const char* data_;
  std::unique_ptr<char[]> copy_;
};

void BatchStatistics(const KernelInput& x, int threads, absl::Span<double> batch_mean, absl::Span<double> batch_var);
void AddMoments(const KernelInput& piece, int threads, kernels::MomentsAccumulator* moments);
void NormalizeBatch(const KernelInput& x, const kernels::BatchOptions& options, int threads,
                    absl::Span<double> batch_mean, absl::Span<double> batch_var, char* y);
void Normalize(const KernelInput& x, const kernels::ChannelParams& params, int threads, char* y);
void Denormalize(const KernelInput& y, const kernels::ChannelParams& params, int threads, char* x);
// REQUIRES: x and dy have one type and shape.
void Backward(const KernelInput& x, const KernelInput& dy, const kernels::ChannelParams& params,
              kernels::GradientMode mode, int threads, absl::Span<double> dgamma, absl::Span<double> dbeta, char* dx);

}  // namespace normd::registry

#endif  // NORMD_SERVER_REGISTRY_TENSOR_KERNELS_H_
