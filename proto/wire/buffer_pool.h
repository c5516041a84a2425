#ifndef NORMD_PROTO_WIRE_BUFFER_POOL_H_
#define NORMD_PROTO_WIRE_BUFFER_POOL_H_

#include <grpcpp/support/slice.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "absl/types/span.h"

namespace normd::wire {

class BufferPool;

// Memory of a pool, aligned to 64 bytes: goes back when this is destroyed. Move-only. Not thread-safe; may be destroyed
// on any thread. Its pool may go first.
class Buffer {
 public:
  Buffer() = default;
  ~Buffer() { Release(); }
  Buffer(Buffer&& other) noexcept { *this = std::move(other); }
  Buffer& operator=(Buffer&& other) noexcept;

  // Null of an empty buffer, and where the pool had no room.
  char* data() const { return data_; }
  std::size_t size() const { return size_; }
  explicit operator bool() const { return data_ != nullptr; }

  // Hands the memory to gRPC without a copy: it goes back to the pool when the slice was sent.
  grpc::Slice ToSlice() &&;

 private:
  friend class BufferPool;
  struct Shared;
  void Release();

  char* data_ = nullptr;
  std::size_t size_ = 0;
  std::size_t capacity_ = 0;
  bool keep_ = true;
  // It is a slice of gRPC's.
  bool sending_ = false;
  std::shared_ptr<Shared> pool_;
};

// Lends memory for tensors and never has more than `budget_bytes` of it, in use and kept together. Touching fresh
// memory costs about ten times what copying to it does, so what comes back is kept for the next, on huge pages where
// the system has them, until ReleaseKept. Not kept is what had to be fresh only because an earlier one of its size was
// not yet sent, unless that happens often: with one caller it is a coincidence, and memory would grow with each.
// Thread-safe.
class BufferPool {
 public:
  explicit BufferPool(int64_t budget_bytes);
  // Buffers that are out stay good.
  ~BufferPool();
  BufferPool(const BufferPool&) = delete;
  BufferPool& operator=(const BufferPool&) = delete;

  // What a buffer of `size` bytes counts in the budget: at most a quarter more.
  static std::size_t CapacityFor(std::size_t size);

  class Reservation;
  // Memory of `size` bytes, unspecified content. What it counts is taken from `reserved` (of this pool, may be null) as
  // far as that goes. A null buffer: there is no room; nothing has changed.
  Buffer Allocate(std::size_t size, Reservation* reserved = nullptr);

  // Bytes that somebody else holds or will allocate, counted in the budget while this lives.
  class Reservation {
   public:
    Reservation() = default;
    ~Reservation() { Release(); }
    Reservation(Reservation&& other) noexcept { *this = std::move(other); }
    Reservation& operator=(Reservation&& other) noexcept;
    explicit operator bool() const { return pool_ != nullptr; }
    // All of it, or as much of `bytes` as it has.
    void Release();
    void Release(std::size_t bytes);

   private:
    friend class BufferPool;
    std::size_t bytes_ = 0;
    std::shared_ptr<Buffer::Shared> pool_;
  };
  // A reservation that is false: there is no room.
  Reservation Reserve(std::size_t bytes);

  int64_t budget_bytes() const;
  // Buffers and reservations.
  int64_t in_use_bytes() const;
  // Kept for the next.
  int64_t kept_bytes() const;
  // The most that in_use_bytes and kept_bytes were together.
  int64_t peak_bytes() const;

  // Gives back to the system what has been kept, unused, for `unused` or longer.
  void ReleaseKept(absl::Duration unused);

 private:
  std::shared_ptr<Buffer::Shared> shared_;
};

}  // namespace normd::wire

#endif  // NORMD_PROTO_WIRE_BUFFER_POOL_H_
