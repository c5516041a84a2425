#ifndef NORMD_SERVER_KERNELS_SCRATCH_H_
#define NORMD_SERVER_KERNELS_SCRATCH_H_

#include <cstddef>
#include <cstdint>

namespace normd::kernels {

// Working memory of the calling thread for the time of a call: 64-byte aligned, not initialized, taken from a buffer
// that the thread keeps, because touching fresh pages costs more than most calls. Frames nest; what a frame gave out is
// gone with it. Not thread-safe: a frame and what it gives belong to the thread that made it (others may use the
// memory).
class Scratch {
 public:
  Scratch();
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  // `count` doubles, at least 1. Ends the process if there is no memory.
  [[gnu::always_inline]] double* Doubles(int64_t count) {
    return static_cast<double*>(Bytes(static_cast<size_t>(count) * sizeof(double)));
  }

 private:
  struct Overflow;

  void* Bytes(size_t bytes);

  size_t mark_;
  Overflow* overflow_ = nullptr;
};

}  // namespace normd::kernels

#endif  // NORMD_SERVER_KERNELS_SCRATCH_H_
