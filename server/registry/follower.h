#ifndef NORMD_SERVER_REGISTRY_FOLLOWER_H_
#define NORMD_SERVER_REGISTRY_FOLLOWER_H_

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "server/base/mutex.h"

namespace normd::registry {

// Calls a function again and again, on a thread of its own, until it goes.
class Follower {
 public:
  // `follow` begins `interval` after it ended the last time.
  Follower(absl::Duration interval, std::function<void()> follow)
      : interval_(interval), follow_(std::move(follow)), thread_([this] { Run(); }) {}
  ~Follower() {
    {
      const base::MutexLock lock(&mutex_);
      stopping_ = true;
    }
    wake_.notify_one();
    thread_.join();
  }
  Follower(const Follower&) = delete;
  Follower& operator=(const Follower&) = delete;

 private:
  void Run() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    std::unique_lock<std::mutex> lock(mutex_.native());
    while (!wake_.wait_for(lock, absl::ToChronoMicroseconds(interval_),
                           [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return stopping_; })) {
      lock.unlock();
      follow_();
      lock.lock();
    }
  }

  const absl::Duration interval_;
  const std::function<void()> follow_;
  base::Mutex mutex_;
  std::condition_variable wake_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  // Last: it runs as soon as it is made.
  std::thread thread_;
};

}  // namespace normd::registry

#endif  // NORMD_SERVER_REGISTRY_FOLLOWER_H_
