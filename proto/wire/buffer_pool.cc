#include "proto/wire/buffer_pool.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cstdlib>
#include <deque>
#include <limits>
#include <new>

#include "absl/base/thread_annotations.h"

namespace normd::wire {
namespace {

constexpr std::size_t kAlignment = 64;
constexpr std::size_t kHugePage = 2 << 20;
// Smaller ones come from malloc, which keeps them warm by itself.
constexpr std::size_t kMinKeptBytes = 64 << 10;
// Sizes from one power of two to the next.
constexpr std::size_t kStepsPerOctave = 4;
constexpr std::size_t kNumClasses = kStepsPerOctave * std::numeric_limits<std::size_t>::digits;

// REQUIRES: BufferPool::CapacityFor gave `capacity`.
std::size_t ClassOf(std::size_t capacity) {
  const std::size_t octave = std::bit_floor(capacity);
  const auto log2 = static_cast<std::size_t>(std::countr_zero(octave));
  return log2 * kStepsPerOctave + (capacity - octave) / (octave / kStepsPerOctave);
}

char* Map(std::size_t capacity) {
  if (capacity < kMinKeptBytes) return static_cast<char*>(std::aligned_alloc(kAlignment, capacity));
  void* data = mmap(nullptr, capacity, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) return nullptr;
  if (capacity >= kHugePage) madvise(data, capacity, MADV_HUGEPAGE);
  return static_cast<char*>(data);
}

void Unmap(char* data, std::size_t capacity) {
  if (capacity < kMinKeptBytes) {
    std::free(data);
  } else {
    munmap(data, capacity);
  }
}

using SteadyTime = std::chrono::steady_clock::time_point;
// Between two coincidences; callers that send at the same time have one every few milliseconds until there is enough.
constexpr std::chrono::milliseconds kOften(100);

}  // namespace

// Lives as long as the pool or any of its buffers.
struct Buffer::Shared {
  struct Kept {
    char* data;
    SteadyTime since;
  };

  explicit Shared(std::size_t budget_bytes) : budget(budget_bytes) {}
  ~Shared() { ReleaseKept(SteadyTime::max()); }

  // Takes `bytes` from the budget, at the cost of what is kept. False: there is no room.
  bool Take(std::size_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    if (bytes > budget - in_use) return false;
    while (kept > budget - in_use - bytes) DropOldest();
    in_use += bytes;
    peak = std::max(peak, in_use + kept);
    return true;
  }

  // Of those that are kept, the one unused for the longest time.
  void DropOldest() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    std::size_t oldest = kNumClasses;
    for (std::size_t i = 0; i < kNumClasses; ++i) {
      if (lists[i].empty()) continue;
      if (oldest == kNumClasses || lists[i].front().since < lists[oldest].front().since) oldest = i;
    }
    if (oldest < kNumClasses) DropFront(oldest);
  }

  void DropFront(std::size_t list) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    const std::size_t capacity = CapacityOfClass(list);
    Unmap(lists[list].front().data, capacity);
    lists[list].pop_front();
    kept -= capacity;
  }

  static std::size_t CapacityOfClass(std::size_t list) {
    const std::size_t octave = std::size_t{1} << (list / kStepsPerOctave);
    return octave + list % kStepsPerOctave * (octave / kStepsPerOctave);
  }

  void ReleaseKept(SteadyTime before) {
    const std::lock_guard<std::mutex> lock(mutex);
    for (std::size_t i = 0; i < kNumClasses; ++i) {
      while (!lists[i].empty() && lists[i].front().since <= before) DropFront(i);
    }
  }

  // Whether a buffer that has to be fresh now is kept when it comes back. Remembers a coincidence for the next.
  bool KeepFresh(std::size_t capacity) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    if (capacity < kMinKeptBytes) return false;
    const std::size_t list = ClassOf(capacity);
    if (sending[list] == 0) return true;
    const SteadyTime now = std::chrono::steady_clock::now();
    return now - std::exchange(coincidence[list], now) <= kOften;
  }

  void GiveBack(const Buffer& buffer) {
    // Before it stops to count.
    if (!buffer.keep_) Unmap(buffer.data_, buffer.capacity_);
    const std::lock_guard<std::mutex> lock(mutex);
    in_use -= buffer.capacity_;
    if (buffer.sending_) --sending[ClassOf(buffer.capacity_)];
    if (!buffer.keep_) return;
    lists[ClassOf(buffer.capacity_)].push_back({buffer.data_, std::chrono::steady_clock::now()});
    kept += buffer.capacity_;
  }

  void Sends(Buffer* buffer) {
    if (buffer->capacity_ < kMinKeptBytes) return;
    const std::lock_guard<std::mutex> lock(mutex);
    buffer->sending_ = true;
    ++sending[ClassOf(buffer->capacity_)];
  }

  void GiveBack(std::size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex);
    in_use -= bytes;
  }

  const std::size_t budget;
  mutable std::mutex mutex;
  std::size_t in_use ABSL_GUARDED_BY(mutex) = 0;
  std::size_t kept ABSL_GUARDED_BY(mutex) = 0;
  std::size_t peak ABSL_GUARDED_BY(mutex) = 0;
  // By class; the one that came back last is at the end, and is lent first.
  std::array<std::deque<Kept>, kNumClasses> lists ABSL_GUARDED_BY(mutex);
  // By class: slices of gRPC's, and when a fresh buffer was last needed beside them.
  std::array<int, kNumClasses> sending ABSL_GUARDED_BY(mutex) = {};
  std::array<SteadyTime, kNumClasses> coincidence ABSL_GUARDED_BY(mutex) = {};
};

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  if (this == &other) return *this;
  Release();
  data_ = std::exchange(other.data_, nullptr);
  size_ = std::exchange(other.size_, 0);
  capacity_ = std::exchange(other.capacity_, 0);
  keep_ = other.keep_;
  sending_ = std::exchange(other.sending_, false);
  pool_ = std::move(other.pool_);
  return *this;
}

void Buffer::Release() {
  if (data_ == nullptr) return;
  pool_->GiveBack(*this);
  sending_ = false;
  data_ = nullptr;
  size_ = capacity_ = 0;
  pool_.reset();
}

grpc::Slice Buffer::ToSlice() && {
  if (data_ == nullptr) return {};
  pool_->Sends(this);
  char* const data = data_;
  const std::size_t size = size_;
  return grpc::Slice(
      data, size, [](void* buffer) { delete static_cast<Buffer*>(buffer); }, new Buffer(std::move(*this)));
}

BufferPool::BufferPool(int64_t budget_bytes)
    : shared_(std::make_shared<Buffer::Shared>(static_cast<std::size_t>(std::max<int64_t>(budget_bytes, 0)))) {}

BufferPool::~BufferPool() { ReleaseKept(absl::ZeroDuration()); }

std::size_t BufferPool::CapacityFor(std::size_t size) {
  if (size < kMinKeptBytes) return (std::max<std::size_t>(size, 1) + kAlignment - 1) / kAlignment * kAlignment;
  const std::size_t step = std::bit_floor(size) / kStepsPerOctave;
  return (size + step - 1) / step * step;
}

Buffer BufferPool::Allocate(std::size_t size, Reservation* reserved) {
  Buffer buffer;
  if (size > std::numeric_limits<std::size_t>::max() / 2) return buffer;
  const std::size_t capacity = CapacityFor(size);
  char* data = nullptr;
  bool keep = true;
  {
    const std::lock_guard<std::mutex> lock(shared_->mutex);
    const std::size_t ready = reserved == nullptr ? 0 : std::min(reserved->bytes_, capacity);
    shared_->in_use -= ready;
    if (capacity >= kMinKeptBytes) {
      std::deque<Buffer::Shared::Kept>& list = shared_->lists[ClassOf(capacity)];
      if (!list.empty()) {
        data = list.back().data;
        list.pop_back();
        shared_->kept -= capacity;
        shared_->in_use += capacity;
      }
    }
    if (data == nullptr) {
      if (!shared_->Take(capacity)) {
        shared_->in_use += ready;
        return buffer;
      }
      keep = shared_->KeepFresh(capacity);
    }
    if (ready > 0) reserved->bytes_ -= ready;
  }
  if (data == nullptr) data = Map(capacity);
  if (data == nullptr) {
    shared_->GiveBack(capacity);
    return buffer;
  }
  buffer.data_ = data;
  buffer.size_ = size;
  buffer.capacity_ = capacity;
  buffer.keep_ = keep;
  buffer.pool_ = shared_;
  return buffer;
}

BufferPool::Reservation& BufferPool::Reservation::operator=(Reservation&& other) noexcept {
  if (this == &other) return *this;
  Release();
  bytes_ = std::exchange(other.bytes_, 0);
  pool_ = std::move(other.pool_);
  return *this;
}

void BufferPool::Reservation::Release() {
  if (pool_ == nullptr) return;
  pool_->GiveBack(bytes_);
  bytes_ = 0;
  pool_.reset();
}

void BufferPool::Reservation::Release(std::size_t bytes) {
  if (pool_ == nullptr) return;
  bytes = std::min(bytes, bytes_);
  pool_->GiveBack(bytes);
  bytes_ -= bytes;
}

BufferPool::Reservation BufferPool::Reserve(std::size_t bytes) {
  Reservation reservation;
  const std::lock_guard<std::mutex> lock(shared_->mutex);
  if (!shared_->Take(bytes)) return reservation;
  reservation.bytes_ = bytes;
  reservation.pool_ = shared_;
  return reservation;
}

int64_t BufferPool::budget_bytes() const { return static_cast<int64_t>(shared_->budget); }

int64_t BufferPool::in_use_bytes() const {
  const std::lock_guard<std::mutex> lock(shared_->mutex);
  return static_cast<int64_t>(shared_->in_use);
}

int64_t BufferPool::kept_bytes() const {
  const std::lock_guard<std::mutex> lock(shared_->mutex);
  return static_cast<int64_t>(shared_->kept);
}

int64_t BufferPool::peak_bytes() const {
  const std::lock_guard<std::mutex> lock(shared_->mutex);
  return static_cast<int64_t>(shared_->peak);
}

void BufferPool::ReleaseKept(absl::Duration unused) {
  shared_->ReleaseKept(std::chrono::steady_clock::now() - absl::ToChronoNanoseconds(unused));
}

}  // namespace normd::wire
