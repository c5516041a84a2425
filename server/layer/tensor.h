#ifndef NORMD_SERVER_LAYER_TENSOR_H_
#define NORMD_SERVER_LAYER_TENSOR_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace normd::layer {

enum class DType { kFloat32, kFloat64, kFloat16, kBFloat16 };
enum class Layout { kChannelsFirst, kChannelsLast };

inline constexpr int kMinRank = 2;
inline constexpr int kMaxRank = 8;

// Bytes of one element.
int64_t ElementBytes(DType dtype);
// "FLOAT32", "FLOAT64", "FLOAT16", "BFLOAT16".
absl::string_view DTypeName(DType dtype);

// The (outer, C, inner) view that every layout reduces to: element (o, c, i) stands at index (o * C + c) * inner + i.
// outer * inner values per channel. Channels last and (N,C) have inner 1.
struct NcsShape {
  int64_t outer = 0;
  int64_t num_channels = 0;
  int64_t inner = 0;

  int64_t size() const { return outer * num_channels * inner; }
};

// A tensor somebody else owns: row-major, little-endian. `data` needs no alignment when bytes come from the wire;
// whoever hands it to the kernels aligns it to the element.
struct TensorView {
  DType dtype = DType::kFloat32;
  std::vector<int64_t> shape;
  Layout layout = Layout::kChannelsFirst;
  absl::Span<const char> data;
};

// The view of a tensor of this shape. INVALID_ARGUMENT, naming got and wanted: rank outside [kMinRank, kMaxRank], an
// extent < 1 (an extent of 0 is an empty batch), or a byte size that does not fit into int64.
absl::StatusOr<NcsShape> ToNcs(absl::Span<const int64_t> shape, Layout layout, DType dtype);

// As ToNcs, and also: the channel axis must hold `num_channels` channels. Does not look at `data`. `what` ("x", "dy")
// and `layer_name` go into the message: "layer 'conv1': x has 32 channels, want 64".
absl::StatusOr<NcsShape> CheckShape(absl::string_view layer_name, absl::string_view what, const TensorView& tensor,
                                    int64_t num_channels);

// As CheckShape, and also: `data` must be exactly the bytes of the shape.
absl::StatusOr<NcsShape> CheckTensor(absl::string_view layer_name, absl::string_view what, const TensorView& tensor,
                                     int64_t num_channels);

// "[32,64,7,7]".
std::string ShapeToString(absl::Span<const int64_t> shape);

}  // namespace normd::layer

#endif  // NORMD_SERVER_LAYER_TENSOR_H_
