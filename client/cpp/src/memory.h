#ifndef NORMD_CLIENT_CPP_SRC_MEMORY_H_
#define NORMD_CLIENT_CPP_SRC_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "normd/tensor.h"
#include "proto/wire/buffer_pool.h"

namespace normd::internal {

// product(shape) * ElementBytes(dtype). Nothing: an extent is negative or the product does not fit.
std::optional<std::size_t> BytesOf(const std::vector<int64_t>& shape, DType dtype);
// The same with an INVALID_ARGUMENT that names the shape.
absl::StatusOr<std::size_t> CheckedBytesOf(const std::vector<int64_t>& shape, DType dtype);

// Memory from the system's allocator, aligned to 64 bytes. Null: there is none.
std::shared_ptr<char> PlainMemory(std::size_t size);
// Memory of `pool`, which it goes back to; plain memory when the pool has no room.
std::shared_ptr<char> PooledMemory(std::size_t size, wire::BufferPool* pool);

}  // namespace normd::internal

#endif  // NORMD_CLIENT_CPP_SRC_MEMORY_H_
