#include "normd/tensor.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "client/cpp/src/element.h"
#include "client/cpp/src/memory.h"

namespace normd {
inline namespace abi_0_1 {
namespace {

template <typename T>
std::vector<double> Widen(absl::Span<const T> values, std::size_t most) {
  std::vector<double> doubles;
  doubles.reserve(std::min(values.size(), most));
  for (const T value : values.subspan(0, most)) doubles.push_back(internal::ToDouble(value));
  return doubles;
}

}  // namespace

float ToFloat(Float16 value) {
  const int exponent = value.bits >> 10 & 31;
  const int fraction = value.bits & 1023;
  float magnitude;
  if (exponent == 31) {
    magnitude = fraction == 0 ? std::numeric_limits<float>::infinity() : std::numeric_limits<float>::quiet_NaN();
  } else if (exponent == 0) {
    magnitude = std::ldexp(static_cast<float>(fraction), -24);
  } else {
    magnitude = std::ldexp(static_cast<float>(fraction + 1024), exponent - 25);
  }
  return (value.bits & 0x8000) != 0 ? -magnitude : magnitude;
}

float ToFloat(BFloat16 value) { return std::bit_cast<float>(uint32_t{value.bits} << 16); }

std::size_t ElementBytes(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return sizeof(float);
    case DType::kFloat64:
      return sizeof(double);
    case DType::kFloat16:
      return sizeof(Float16);
    case DType::kBFloat16:
      break;
  }
  return sizeof(BFloat16);
}

absl::string_view NameOf(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return "float32";
    case DType::kFloat64:
      return "float64";
    case DType::kFloat16:
      return "float16";
    case DType::kBFloat16:
      break;
  }
  return "bfloat16";
}

Tensor::Tensor(DType dtype, std::vector<int64_t> shape, Layout layout, std::string bytes)
    : dtype_(dtype), shape_(std::move(shape)), layout_(layout), size_bytes_(bytes.size()) {
  const auto owned = std::make_shared<std::string>(std::move(bytes));
  memory_ = std::shared_ptr<char>(owned, owned->data());
}

absl::StatusOr<Tensor> Tensor::Allocate(DType dtype, std::vector<int64_t> shape, Layout layout) {
  const absl::StatusOr<std::size_t> size = internal::CheckedBytesOf(shape, dtype);
  if (!size.ok()) return size.status();
  std::shared_ptr<char> memory = internal::PlainMemory(*size);
  if (memory == nullptr)
    return absl::ResourceExhaustedError(absl::StrCat("no memory for a tensor of ", *size, " bytes"));
  return Tensor(dtype, std::move(shape), layout, std::move(memory), *size);
}

absl::Span<char> Tensor::mutable_bytes() {
  if (memory_.use_count() > 1) {
    std::shared_ptr<char> own = internal::PlainMemory(size_bytes_);
    if (own == nullptr) throw std::bad_alloc();
    std::memcpy(own.get(), memory_.get(), size_bytes_);
    memory_ = std::move(own);
  } else {
    // Looking at the count orders nothing. This does: what another thread did with its share before it let go of it
    // happens before the caller writes.
    const std::shared_ptr<char> ordered = memory_;
  }
  return {memory_.get(), size_bytes_};
}

std::vector<double> Tensor::ToDoubles(std::size_t most) const {
  switch (dtype_) {
    case DType::kFloat32:
      return Widen(values<float>(), most);
    case DType::kFloat64:
      return Widen(values<double>(), most);
    case DType::kFloat16:
      return Widen(values<Float16>(), most);
    case DType::kBFloat16:
      break;
  }
  return Widen(values<BFloat16>(), most);
}

}  // namespace abi_0_1
}  // namespace normd
