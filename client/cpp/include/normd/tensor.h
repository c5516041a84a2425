#ifndef NORMD_TENSOR_H_
#define NORMD_TENSOR_H_

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace normd {
inline namespace abi_0_1 {

// Element types that the server takes: float, double, Float16 and BFloat16.
enum class DType {
  kFloat32,   // float, IEEE 754 binary32.
  kFloat64,   // double, IEEE 754 binary64.
  kFloat16,   // Float16, IEEE 754 binary16.
  kBFloat16,  // BFloat16, the upper half of a binary32.
};

// An IEEE 754 binary16 as it stands in memory, since C++20 has no type for it. Arrays of another library's type with
// the same bits (half, __half) may be passed as these with a reinterpret_cast of the pointer.
struct Float16 {
  uint16_t bits = 0;  // Sign, 5 bits of exponent, 10 of fraction.
};

// The upper half of a binary32; as Float16 (c10::BFloat16, __nv_bfloat16).
struct BFloat16 {
  uint16_t bits = 0;  // Sign, 8 bits of exponent, 7 of fraction.
};

// The same number, exactly; NaN stays NaN.
float ToFloat(Float16 value);
// The same number, exactly; NaN stays NaN.
float ToFloat(BFloat16 value);

// Which dimension holds the channels.
enum class Layout {
  kChannelsFirst,  // Dimension 1: (N,C), (N,C,L), (N,C,H,W).
  kChannelsLast,   // The last one: (N,C), (N,L,C), (N,H,W,C).
};

// Bytes of one element.
std::size_t ElementBytes(DType dtype);

// "float32", "float64", "float16", "bfloat16".
absl::string_view NameOf(DType dtype);

// A dense row-major tensor that somebody else owns, rank 2 to 8. Cheap to copy. Without an `owner` the data must
// outlive the call that it is given to (the synchronous calls, and the start of the asynchronous ones), which copies it
// once: gRPC may read what it sends for some time after a call has timed out.
struct TensorView {
  DType dtype = DType::kFloat32;           // Of the elements.
  std::vector<int64_t> shape;              // Extents, outermost first; 2 to 8 of them, each at least 1.
  Layout layout = Layout::kChannelsFirst;  // Where the channels are.
  // The elements in this machine's (little-endian) order: product(shape) * ElementBytes(dtype) bytes.
  absl::Span<const char> data;
  // Optional. Keeps the elements alive; with it they are sent from where they stand, without a copy, and must not
  // change before the call has ended and every copy of `owner` that it took is gone. Tensor::view() sets it; for
  // elements of your own, e.g.:
  //   auto values = std::make_shared<const std::vector<float>>(...);
  //   TensorView view(*values, {32, 64});
  //   view.owner = values;
  std::shared_ptr<const void> owner;

  // Of no elements: fill the members in.
  TensorView() = default;
  // Of values that stay the caller's; as many as the extents' product, which the calls check and this does not.
  TensorView(absl::Span<const float> values, std::vector<int64_t> extents, Layout where = Layout::kChannelsFirst)
      : dtype(DType::kFloat32), shape(std::move(extents)), layout(where), data(Bytes(values)) {}
  // The same of float64.
  TensorView(absl::Span<const double> values, std::vector<int64_t> extents, Layout where = Layout::kChannelsFirst)
      : dtype(DType::kFloat64), shape(std::move(extents)), layout(where), data(Bytes(values)) {}
  // The same of float16.
  TensorView(absl::Span<const Float16> values, std::vector<int64_t> extents, Layout where = Layout::kChannelsFirst)
      : dtype(DType::kFloat16), shape(std::move(extents)), layout(where), data(Bytes(values)) {}
  // The same of bfloat16.
  TensorView(absl::Span<const BFloat16> values, std::vector<int64_t> extents, Layout where = Layout::kChannelsFirst)
      : dtype(DType::kBFloat16), shape(std::move(extents)), layout(where), data(Bytes(values)) {}

 private:
  template <typename T>
  static absl::Span<const char> Bytes(absl::Span<const T> values) {
    return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
  }
};

// A dense row-major tensor that owns its elements: what the calls return, and what they send without a copy. Copies
// share the elements, so they are cheap; a copy that is written to gets elements of its own first. Threads may read one
// Tensor together, and use copies of it as they like.
class Tensor {
 public:
  // Without elements.
  Tensor() = default;
  // Takes the bytes over. REQUIRES: as many as the shape and dtype ask for (true of all that make Tensors).
  Tensor(DType dtype, std::vector<int64_t> shape, Layout layout, std::string bytes);
  // The same for elements at `memory`, `size_bytes` of them, which shared copies of `memory` keep alive. Aligned for
  // the element type.
  Tensor(DType dtype, std::vector<int64_t> shape, Layout layout, std::shared_ptr<char> memory, std::size_t size_bytes)
      : dtype_(dtype), shape_(std::move(shape)), layout_(layout), memory_(std::move(memory)), size_bytes_(size_bytes) {}

  // A tensor to be filled, its elements unspecified, aligned to 64 bytes. INVALID_ARGUMENT: a negative extent, or too
  // many elements for the address space. RESOURCE_EXHAUSTED: no memory. Fresh memory is slow to touch: in a loop, reuse
  // the tensor, or take it from Client::AllocateTensor, which does that for you.
  static absl::StatusOr<Tensor> Allocate(DType dtype, std::vector<int64_t> shape,
                                         Layout layout = Layout::kChannelsFirst);

  // Of the elements.
  DType dtype() const { return dtype_; }
  // Extents, outermost first.
  const std::vector<int64_t>& shape() const { return shape_; }
  // Where the channels are.
  Layout layout() const { return layout_; }
  // The elements, row-major: the last extent varies fastest.
  absl::Span<const char> bytes() const { return {memory_.get(), size_bytes_}; }
  // Whether there are no elements.
  bool empty() const { return size_bytes_ == 0; }

  // The elements, T being float, double, Float16 or BFloat16. REQUIRES T to be the type that dtype() names; otherwise
  // the span is empty.
  template <typename T>
  absl::Span<const T> values() const {
    if (dtype_ != DTypeOf<T>()) return {};
    return {reinterpret_cast<const T*>(memory_.get()), size_bytes_ / sizeof(T)};
  }

  // The same to write to. If anybody else shares the elements - a copy, a view(), a call that is under way or was cut
  // off - this tensor gets new ones first, with the same values, on memory of no pool; so what was sent stays what it
  // was. Spans that were taken before do not follow.
  absl::Span<char> mutable_bytes();
  // mutable_bytes as elements; T as for values.
  template <typename T>
  absl::Span<T> mutable_values() {
    if (dtype_ != DTypeOf<T>()) return {};
    const absl::Span<char> bytes = mutable_bytes();
    return {reinterpret_cast<T*>(bytes.data()), bytes.size() / sizeof(T)};
  }

  // The first `most` elements as double, exactly, whatever dtype() is.
  std::vector<double> ToDoubles(std::size_t most = std::numeric_limits<std::size_t>::max()) const;

  // To hand it to the next call; the view shares the elements.
  TensorView view() const {
    TensorView view;
    view.dtype = dtype_;
    view.shape = shape_;
    view.layout = layout_;
    view.data = bytes();
    view.owner = memory_;
    return view;
  }

 private:
  template <typename T>
  static constexpr DType DTypeOf() {
    if constexpr (std::is_same_v<T, float>) {
      return DType::kFloat32;
    } else if constexpr (std::is_same_v<T, double>) {
      return DType::kFloat64;
    } else if constexpr (std::is_same_v<T, Float16>) {
      return DType::kFloat16;
    } else {
      static_assert(std::is_same_v<T, BFloat16>, "an element is float, double, Float16 or BFloat16");
      return DType::kBFloat16;
    }
  }

  DType dtype_ = DType::kFloat32;
  std::vector<int64_t> shape_;
  Layout layout_ = Layout::kChannelsFirst;
  std::shared_ptr<char> memory_;
  std::size_t size_bytes_ = 0;
};

}  // namespace abi_0_1
}  // namespace normd

#endif  // NORMD_TENSOR_H_
