#include "server/layer/tensor.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/layer/layer_error.h"

namespace normd::layer {
namespace {

// ToNcs with its messages phrased to follow the name of the tensor: "has rank 9, want 2 to 8".
absl::StatusOr<NcsShape> Reduce(absl::Span<const int64_t> shape, Layout layout, DType dtype) {
  const size_t rank = shape.size();
  if (rank < kMinRank || rank > kMaxRank) {
    return absl::InvalidArgumentError(absl::StrCat("has rank ", rank, ", want ", kMinRank, " to ", kMaxRank));
  }
  for (size_t i = 0; i < rank; ++i) {
    if (shape[i] >= 1) continue;
    return absl::InvalidArgumentError(absl::StrCat("has shape ", ShapeToString(shape), " with extent ", i, " = ",
                                                   shape[i], ", want every extent to be at least 1",
                                                   shape[i] == 0 ? " (nothing can be done with an empty batch)" : ""));
  }
  int64_t bytes = ElementBytes(dtype);
  for (const int64_t extent : shape) {
    if (__builtin_mul_overflow(bytes, extent, &bytes)) {
      return absl::InvalidArgumentError(
          absl::StrCat("has shape ", ShapeToString(shape), ", whose size in bytes is more than 64 bits can hold"));
    }
  }
  const size_t channel_axis = layout == Layout::kChannelsFirst ? 1 : rank - 1;
  NcsShape ncs{.outer = 1, .num_channels = shape[channel_axis], .inner = 1};
  for (size_t i = 0; i < channel_axis; ++i) ncs.outer *= shape[i];
  for (size_t i = channel_axis + 1; i < rank; ++i) ncs.inner *= shape[i];
  return ncs;
}

}  // namespace

int64_t ElementBytes(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return 4;
    case DType::kFloat64:
      return 8;
    case DType::kFloat16:
    case DType::kBFloat16:
      break;
  }
  return 2;
}

absl::string_view DTypeName(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return "FLOAT32";
    case DType::kFloat64:
      return "FLOAT64";
    case DType::kFloat16:
      return "FLOAT16";
    case DType::kBFloat16:
      break;
  }
  return "BFLOAT16";
}

absl::StatusOr<NcsShape> ToNcs(absl::Span<const int64_t> shape, Layout layout, DType dtype) {
  absl::StatusOr<NcsShape> ncs = Reduce(shape, layout, dtype);
  if (ncs.ok()) return ncs;
  return absl::Status(ncs.status().code(), absl::StrCat("the tensor ", ncs.status().message()));
}

absl::StatusOr<NcsShape> CheckShape(absl::string_view layer_name, absl::string_view what, const TensorView& tensor,
                                    int64_t num_channels) {
  const std::string prefix = absl::StrCat(LayerPrefix(layer_name), what, " ");
  absl::StatusOr<NcsShape> ncs = Reduce(tensor.shape, tensor.layout, tensor.dtype);
  if (!ncs.ok()) return absl::Status(ncs.status().code(), absl::StrCat(prefix, ncs.status().message()));
  if (ncs->num_channels != num_channels) {
    return absl::InvalidArgumentError(absl::StrCat(
        prefix, "has ", ncs->num_channels, " channels, want ", num_channels, " (shape ", ShapeToString(tensor.shape),
        ", channels ", tensor.layout == Layout::kChannelsFirst ? "first: dimension 1" : "last", ")"));
  }
  return ncs;
}

absl::StatusOr<NcsShape> CheckTensor(absl::string_view layer_name, absl::string_view what, const TensorView& tensor,
                                     int64_t num_channels) {
  absl::StatusOr<NcsShape> ncs = CheckShape(layer_name, what, tensor, num_channels);
  if (!ncs.ok()) return ncs;
  const int64_t want_bytes = ncs->size() * ElementBytes(tensor.dtype);
  if (static_cast<int64_t>(tensor.data.size()) != want_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(LayerPrefix(layer_name), what, " has ", tensor.data.size(),
                                                   " bytes of data, want ", want_bytes, " for shape ",
                                                   ShapeToString(tensor.shape), " of ", DTypeName(tensor.dtype)));
  }
  return ncs;
}

std::string ShapeToString(absl::Span<const int64_t> shape) {
  // A shape from the wire may have any rank; a message may not.
  constexpr size_t kMaxShown = 16;
  const absl::Span<const int64_t> shown = shape.subspan(0, std::min(shape.size(), kMaxShown));
  return absl::StrCat("[", absl::StrJoin(shown, ","), shape.size() > kMaxShown ? ",..." : "", "]");
}

}  // namespace normd::layer
