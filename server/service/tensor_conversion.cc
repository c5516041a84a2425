#include "server/service/tensor_conversion.h"

#include <bit>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "server/layer/layer_error.h"

namespace normd::service {
namespace {

static_assert(std::endian::native == std::endian::little, "tensors are computed on as they travel");

// "UNSPECIFIED", "17".
std::string WireName(v1::DataType dtype) {
  const std::string& name = v1::DataType_Name(dtype);
  if (name.empty()) return absl::StrCat(static_cast<int>(dtype));
  return std::string(absl::StripPrefix(name, "DATA_TYPE_"));
}

std::optional<layer::DType> FromProto(v1::DataType dtype) {
  switch (dtype) {
    case v1::DATA_TYPE_FLOAT32:
      return layer::DType::kFloat32;
    case v1::DATA_TYPE_FLOAT64:
      return layer::DType::kFloat64;
    case v1::DATA_TYPE_FLOAT16:
      return layer::DType::kFloat16;
    case v1::DATA_TYPE_BFLOAT16:
      return layer::DType::kBFloat16;
    default:
      return std::nullopt;
  }
}

v1::DataType ToProto(layer::DType dtype) {
  switch (dtype) {
    case layer::DType::kFloat32:
      return v1::DATA_TYPE_FLOAT32;
    case layer::DType::kFloat64:
      return v1::DATA_TYPE_FLOAT64;
    case layer::DType::kFloat16:
      return v1::DATA_TYPE_FLOAT16;
    case layer::DType::kBFloat16:
      break;
  }
  return v1::DATA_TYPE_BFLOAT16;
}

}  // namespace

absl::StatusOr<layer::TensorView> ToTensorView(absl::string_view layer_name, absl::string_view what,
                                               const v1::Tensor& tensor, absl::Span<const char> data) {
  layer::TensorView view;
  const std::optional<layer::DType> dtype = FromProto(tensor.dtype());
  if (!dtype) {
    return absl::InvalidArgumentError(absl::StrCat(layer::LayerPrefix(layer_name), what, "'s dtype ",
                                                   WireName(tensor.dtype()),
                                                   " is not supported: want FLOAT32, FLOAT64, FLOAT16 or BFLOAT16"));
  }
  view.dtype = *dtype;
  switch (tensor.layout()) {
    case v1::LAYOUT_UNSPECIFIED:
    case v1::LAYOUT_CHANNELS_FIRST:
      view.layout = layer::Layout::kChannelsFirst;
      break;
    case v1::LAYOUT_CHANNELS_LAST:
      view.layout = layer::Layout::kChannelsLast;
      break;
    default:
      return absl::InvalidArgumentError(absl::StrCat(layer::LayerPrefix(layer_name), what, "'s layout ",
                                                     static_cast<int>(tensor.layout()),
                                                     " is not known: want CHANNELS_FIRST or CHANNELS_LAST"));
  }
  view.shape.assign(tensor.shape().begin(), tensor.shape().end());
  view.data = data;
  return view;
}

v1::Tensor ToProto(const layer::TensorView& tensor) {
  v1::Tensor message;
  message.set_dtype(ToProto(tensor.dtype));
  message.set_layout(tensor.layout == layer::Layout::kChannelsFirst ? v1::LAYOUT_CHANNELS_FIRST
                                                                    : v1::LAYOUT_CHANNELS_LAST);
  message.mutable_shape()->Assign(tensor.shape.begin(), tensor.shape.end());
  return message;
}

}  // namespace normd::service
