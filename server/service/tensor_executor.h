#ifndef NORMD_SERVER_SERVICE_TENSOR_EXECUTOR_H_
#define NORMD_SERVER_SERVICE_TENSOR_EXECUTOR_H_

#include <atomic>
#include <cstdint>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "server/base/compute_thread.h"
#include "server/kernels/parallelism.h"

namespace normd::service {

// Decides where calls on tensors run. One for which one thread is enough runs in the thread that received it; a larger
// one on the compute thread, which owns the only OpenMP team. Thread-safe.
class TensorExecutor {
 public:
  // Computes with `threads` threads. Runs once; must not throw.
  using Job = absl::AnyInvocable<void(int threads)>;

  // `compute_thread` outlives this. `cores` is what one call may use at most.
  TensorExecutor(base::ComputeThread* compute_thread, int cores) : compute_thread_(compute_thread), cores_(cores) {}

  // Runs `job`, which touches `bytes` of tensors: before it returns, or later. RESOURCE_EXHAUSTED with a hint when to
  // come back: too many wait; `job` is gone.
  absl::Status Run(int64_t bytes, Job job);

  // The status of a call that `what` has no room for, with a guess at when there will be some.
  absl::Status Overloaded(absl::string_view what) const;

  // How often there was no room for a call in the queue of the compute thread, and none in memory.
  int64_t refused_for_queue() const { return refused_for_queue_.load(std::memory_order_relaxed); }
  int64_t refused_for_memory() const {
    return refused_.load(std::memory_order_relaxed) - refused_for_queue_.load(std::memory_order_relaxed);
  }

 private:
  base::ComputeThread* const compute_thread_;
  const int cores_;
  // Cores that run small calls inline; the compute thread leaves them alone.
  kernels::BusyCores busy_inline_;
  // Of the jobs that wait or run on the compute thread.
  std::atomic<int64_t> backlog_bytes_ = 0;
  // Overloaded() in all, and of Run.
  mutable std::atomic<int64_t> refused_ = 0;
  std::atomic<int64_t> refused_for_queue_ = 0;
};

}  // namespace normd::service

#endif  // NORMD_SERVER_SERVICE_TENSOR_EXECUTOR_H_
