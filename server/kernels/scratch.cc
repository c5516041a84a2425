#include "server/kernels/scratch.h"

#include <algorithm>
#include <cstdlib>
#include <new>

namespace normd::kernels {
namespace {

constexpr size_t kAlignment = 64;
// What a thread keeps at the most. Calls that need more allocate it and give it back.
constexpr size_t kMaxKept = size_t{8} << 20;

// The thread's buffer: a stack of which `used` bytes are given out. It grows only while empty.
struct Buffer {
  ~Buffer() { std::free(data); }  // NOLINT(cppcoreguidelines-no-malloc): aligned_alloc's counterpart.

  char* data = nullptr;
  size_t capacity = 0;
  size_t used = 0;
  // What the frames of the running call wanted in all, which the buffer grows to.
  size_t wanted = 0;
};

thread_local Buffer buffer;

void* Allocate(size_t bytes) {
  void* data = std::aligned_alloc(kAlignment, bytes);
  if (data == nullptr) std::abort();
  return data;
}

}  // namespace

struct alignas(kAlignment) Scratch::Overflow {
  Overflow* next;
};

Scratch::Scratch() : mark_(buffer.used) {
  if (buffer.used != 0) return;
  if (buffer.wanted > buffer.capacity) {
    std::free(buffer.data);  // NOLINT(cppcoreguidelines-no-malloc)
    buffer.capacity = std::min(kMaxKept, std::max(buffer.wanted, 2 * buffer.capacity));
    buffer.data = static_cast<char*>(Allocate(buffer.capacity));
  }
  buffer.wanted = 0;
}

Scratch::~Scratch() {
  buffer.used = mark_;
  while (overflow_ != nullptr) {
    Overflow* next = overflow_->next;
    std::free(overflow_);  // NOLINT(cppcoreguidelines-no-malloc)
    overflow_ = next;
  }
}

void* Scratch::Bytes(size_t bytes) {
  const size_t rounded = (std::max<size_t>(bytes, 1) + kAlignment - 1) / kAlignment * kAlignment;
  buffer.wanted = std::min(buffer.wanted + rounded, kMaxKept);
  if (buffer.capacity - buffer.used >= rounded) {
    void* data = buffer.data + buffer.used;
    buffer.used += rounded;
    return data;
  }
  auto* block = static_cast<char*>(Allocate(sizeof(Overflow) + rounded));
  overflow_ = new (block) Overflow{overflow_};
  return block + sizeof(Overflow);
}

}  // namespace normd::kernels
