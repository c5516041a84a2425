#ifndef NORMD_SERVER_KERNELS_PARALLELISM_H_
#define NORMD_SERVER_KERNELS_PARALLELISM_H_

#include <atomic>
#include <cstdint>

namespace normd::kernels {

// Cores this process may use: the smaller of the CPU affinity mask and the cgroup quota (v1 or v2), rounded up, at
// least 1. Reads the system; call it once.
int AvailableCores();

// Threads worth using for a call that touches `bytes` of tensor data, on `cores` cores of which other calls keep `busy`
// busy. 1 means: run inline, in the thread that has the call. Every call that computes on tensors asks here.
int ThreadsFor(int64_t bytes, int cores, int busy = 0);

// Calls that compute at the moment, for ThreadsFor. Thread-safe.
class BusyCores {
 public:
  // Counts one core as busy while it lives.
  class Lease {
   public:
    explicit Lease(BusyCores* busy) : busy_(busy) { busy_->count_.fetch_add(1, std::memory_order_relaxed); }
    ~Lease() { busy_->count_.fetch_sub(1, std::memory_order_relaxed); }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;

   private:
    BusyCores* const busy_;
  };

  int count() const { return count_.load(std::memory_order_relaxed); }

 private:
  std::atomic<int> count_ = 0;
};

}  // namespace normd::kernels

#endif  // NORMD_SERVER_KERNELS_PARALLELISM_H_
