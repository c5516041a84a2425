#ifndef NORMD_SERVER_STORE_SQLITE_LOG_FLUSHER_H_
#define NORMD_SERVER_STORE_SQLITE_LOG_FLUSHER_H_

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/base/mutex.h"

namespace normd::store {

// Brings a file that others write to the disk, on a thread of its own, so that they need not wait. What the disk
// refuses is not reported: whoever must know syncs the file himself, which takes little time if it is there already.
// Thread-safe.
class LogFlusher {
 public:
  // UNAVAILABLE: there is no such file.
  static absl::StatusOr<std::unique_ptr<LogFlusher>> Open(const std::string& path);
  // Leaves undone what is not due.
  ~LogFlusher();
  LogFlusher(const LogFlusher&) = delete;
  LogFlusher& operator=(const LogFlusher&) = delete;

  // What is written now will be on the disk after `delay`. The first of several to be due is the one that counts.
  void FlushWithin(absl::Duration delay);
  // How many flushes have ended.
  int64_t num_flushes() const { return num_flushes_.load(std::memory_order_acquire); }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr Clock::time_point kNever = Clock::time_point::max();

  explicit LogFlusher(int file) : file_(file), thread_([this] { Run(); }) {}
  // Of thread_. Waits on a condition variable, which the thread-safety analysis cannot follow.
  void Run() ABSL_NO_THREAD_SAFETY_ANALYSIS;

  const int file_;
  base::Mutex mutex_;
  std::condition_variable wake_;
  Clock::time_point due_ ABSL_GUARDED_BY(mutex_) = kNever;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::atomic<int64_t> num_flushes_ = 0;
  // Last: it runs as soon as it is made.
  std::thread thread_;
};

}  // namespace normd::store

#endif  // NORMD_SERVER_STORE_SQLITE_LOG_FLUSHER_H_
