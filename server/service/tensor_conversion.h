#ifndef NORMD_SERVER_SERVICE_TENSOR_CONVERSION_H_
#define NORMD_SERVER_SERVICE_TENSOR_CONVERSION_H_

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "normd/v1/tensor.pb.h"
#include "server/layer/tensor.h"

namespace normd::service {

// The tensor of a message without its bytes copied; `tensor` outlives the view. INVALID_ARGUMENT: `present` is false,
// or the element type or the layout is not served. Shape and length are checked later, against the layer. `what` ("x",
// "dy") and `layer_name` go into the message.
absl::StatusOr<layer::TensorView> ToTensorView(absl::string_view layer_name, absl::string_view what, bool present,
                                               const v1::Tensor& tensor);

// Makes `output` a tensor of `input`'s element type, shape, layout and length and returns its bytes, aligned to the
// element, to be written.
char* AllocateLike(const layer::TensorView& input, v1::Tensor* output);

}  // namespace normd::service

#endif  // NORMD_SERVER_SERVICE_TENSOR_CONVERSION_H_
