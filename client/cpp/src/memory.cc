#include "client/cpp/src/memory.h"

#include <new>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace normd::internal {
namespace {

constexpr std::align_val_t kAlignment{64};

}  // namespace

std::optional<std::size_t> BytesOf(const std::vector<int64_t>& shape, DType dtype) {
  bool empty = false;
  std::size_t bytes = ElementBytes(dtype);
  for (const int64_t extent : shape) {
    if (extent < 0) return std::nullopt;
    empty = empty || extent == 0;
    if (extent > 0 && __builtin_mul_overflow(bytes, static_cast<std::size_t>(extent), &bytes)) return std::nullopt;
  }
  return empty ? 0 : bytes;
}

absl::StatusOr<std::size_t> CheckedBytesOf(const std::vector<int64_t>& shape, DType dtype) {
  if (const std::optional<std::size_t> bytes = BytesOf(shape, dtype)) return *bytes;
  return absl::InvalidArgumentError(absl::StrCat("a tensor of shape [", absl::StrJoin(shape, ", "),
                                                 "]: want extents >= 0 whose product fits the address space"));
}

std::shared_ptr<char> PlainMemory(std::size_t size) {
  auto* const memory = static_cast<char*>(::operator new(size, kAlignment, std::nothrow));
  if (memory == nullptr) return nullptr;
  return {memory, [](char* data) { ::operator delete(data, kAlignment); }};
}

std::shared_ptr<char> PooledMemory(std::size_t size, wire::BufferPool* pool) {
  wire::Buffer buffer = pool->Allocate(size);
  if (!buffer) return PlainMemory(size);
  const auto owner = std::make_shared<wire::Buffer>(std::move(buffer));
  return {owner, owner->data()};
}

}  // namespace normd::internal
