#ifndef NORMD_CLIENT_CPP_SRC_EXTENTS_H_
#define NORMD_CLIENT_CPP_SRC_EXTENTS_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "normd/tensor.h"
#include "server/kernels/half.h"

// Tensors as the kernels see them.
namespace normd::internal {

// A tensor as (outer, num_channels, inner).
struct Extents {
  int64_t outer = 1;
  int64_t num_channels = 1;
  int64_t inner = 1;

  int64_t ValuesPerChannel() const { return outer * inner; }
};

// INVALID_ARGUMENT, naming `what` (x, y): a rank outside of 2 to 8, or data of another length than the shape asks for.
absl::StatusOr<Extents> CheckedExtents(absl::string_view what, const TensorView& tensor);

// Calls f with a value of the type that the kernels have for `dtype`.
template <typename F>
void WithElement(DType dtype, const F& f) {
  switch (dtype) {
    case DType::kFloat32:
      return f(float{});
    case DType::kFloat64:
      return f(double{});
    case DType::kFloat16:
      return f(kernels::Float16{});
    case DType::kBFloat16:
      return f(kernels::BFloat16{});
  }
}

}  // namespace normd::internal

#endif  // NORMD_CLIENT_CPP_SRC_EXTENTS_H_
