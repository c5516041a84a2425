#ifndef NORMD_SERVER_BASE_COMPUTE_THREAD_H_
#define NORMD_SERVER_BASE_COMPUTE_THREAD_H_

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "server/base/mutex.h"

namespace normd::base {

// One thread that runs jobs in the order in which they came, at a lower priority than the others. The only thread that
// opens OpenMP regions with more than one thread: libgomp keeps a team for every thread that ever opened one, and
// handler threads come and go. Thread-safe.
class ComputeThread {
 public:
  // Jobs must not throw and must not wait for other jobs.
  using Job = absl::AnyInvocable<void()>;

  // At most `max_waiting` (>= 1) jobs wait behind the running one.
  explicit ComputeThread(std::size_t max_waiting);
  // Runs every job that still waits, then ends the thread. REQUIRES: no Submit runs or comes later.
  ~ComputeThread();
  ComputeThread(const ComputeThread&) = delete;
  ComputeThread& operator=(const ComputeThread&) = delete;

  // Takes `job` over and returns true, or returns false at once, with `job` untouched, if max_waiting jobs wait.
  [[nodiscard]] bool Submit(Job& job);

  // Jobs that wait behind the running one.
  std::size_t waiting() const;
  std::size_t max_waiting() const { return max_waiting_; }

 private:
  // Waits on a condition variable, which the thread-safety analysis cannot follow.
  void Run() ABSL_NO_THREAD_SAFETY_ANALYSIS;

  const std::size_t max_waiting_;
  mutable Mutex mutex_;
  std::condition_variable wake_;
  std::deque<Job> waiting_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  // Last: it runs as soon as it is made.
  std::thread thread_;
};

}  // namespace normd::base

#endif  // NORMD_SERVER_BASE_COMPUTE_THREAD_H_
