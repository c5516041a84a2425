#ifndef NORMD_SERVER_APP_MEMORY_TRIMMER_H_
#define NORMD_SERVER_APP_MEMORY_TRIMMER_H_

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

#include "absl/time/time.h"

namespace normd::app {

// Freed memory is kept for the next call. This gives it back to the system from a thread of its own: while calls come,
// what none of them has needed for a while, and all of it once they have stopped; then it sleeps until the next call.
// Thread-safe.
class MemoryTrimmer {
 public:
  // Gives memory back that has not been used for `unused`; zero: all that is not in use, for which calls may wait.
  // False: some is still in use, so that there may be more to give back later.
  using Trim = std::function<bool(absl::Duration unused)>;
  // Waits, with `lock` released, until `delay` is over (true) or `stop()`, asked whenever `changed` is notified
  // (false).
  using Wait = std::function<bool(std::unique_lock<std::mutex>& lock, std::condition_variable& changed,
                                  absl::Duration delay, const std::function<bool()>& stop)>;

  // Calls `trim` with `quiet` as often while calls come, and with zero when `quiet` to twice `quiet` have passed since
  // the last one. `wait` is for tests.
  MemoryTrimmer(absl::Duration quiet, Trim trim, Wait wait = WaitForReal);
  ~MemoryTrimmer();
  MemoryTrimmer(const MemoryTrimmer&) = delete;
  MemoryTrimmer& operator=(const MemoryTrimmer&) = delete;

  // There has been a call. Reads one flag; takes a lock once in `quiet`.
  void OnCall() {
    if (called_.load(std::memory_order_relaxed)) return;
    Wake();
  }

 private:
  static bool WaitForReal(std::unique_lock<std::mutex>& lock, std::condition_variable& changed, absl::Duration delay,
                          const std::function<bool()>& stop);
  void Wake();
  void Run();

  const absl::Duration quiet_;
  const Trim trim_;
  const Wait wait_;
  std::mutex mutex_;
  std::condition_variable changed_;
  // Since the thread last looked.
  std::atomic<bool> called_ = false;
  bool stopping_ = false;
  // Last: it runs as soon as it is made.
  std::thread thread_;
};

}  // namespace normd::app

#endif  // NORMD_SERVER_APP_MEMORY_TRIMMER_H_
