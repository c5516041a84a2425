#ifndef NORMD_SERVER_SERVICE_TENSOR_CONVERSION_H_
#define NORMD_SERVER_SERVICE_TENSOR_CONVERSION_H_

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "normd/v1/tensor.pb.h"
#include "server/layer/tensor.h"

namespace normd::service {

// The tensor of a message, whose elements stand at `data`. INVALID_ARGUMENT: the element type or the layout is not
// served. Shape and length are checked later, against the layer. `what` ("x", "dy") and `layer_name` go into the
// message.
absl::StatusOr<layer::TensorView> ToTensorView(absl::string_view layer_name, absl::string_view what,
                                               const v1::Tensor& tensor, absl::Span<const char> data);

// A message with `tensor`'s element type, shape and layout, and no elements.
v1::Tensor ToProto(const layer::TensorView& tensor);

}  // namespace normd::service

#endif  // NORMD_SERVER_SERVICE_TENSOR_CONVERSION_H_
