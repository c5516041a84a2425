#ifndef NORMD_SERVER_REGISTRY_CHANGE_GATE_H_
#define NORMD_SERVER_REGISTRY_CHANGE_GATE_H_

#include <condition_variable>
#include <mutex>

#include "absl/base/thread_annotations.h"
#include "server/base/mutex.h"

namespace normd::registry {

// Through which every change of a layer goes, so that what concerns many layers can be alone. Unlike a shared_mutex, in
// which a steady flow of readers may keep a writer out for good, it lets nobody in once somebody wants to be alone.
// Thread-safe.
class ChangeGate {
 public:
  void Enter() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    std::unique_lock<std::mutex> lock(mutex_.native());
    while (closed_) changed_.wait(lock);
    ++inside_;
  }
  void Leave() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    std::unique_lock<std::mutex> lock(mutex_.native());
    if (--inside_ == 0 && closed_) changed_.notify_all();
  }
  // Waits until nobody is inside; whoever comes waits until Open.
  void Close() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    std::unique_lock<std::mutex> lock(mutex_.native());
    while (closed_) changed_.wait(lock);
    closed_ = true;
    while (inside_ > 0) changed_.wait(lock);
  }
  void Open() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    const base::MutexLock lock(&mutex_);
    closed_ = false;
    changed_.notify_all();
  }

  // Inside while it lives.
  class Pass {
   public:
    explicit Pass(ChangeGate* gate) : gate_(gate) { gate_->Enter(); }
    ~Pass() { gate_->Leave(); }
    Pass(const Pass&) = delete;
    Pass& operator=(const Pass&) = delete;

   private:
    ChangeGate* const gate_;
  };

  // Alone while it lives.
  class Alone {
   public:
    explicit Alone(ChangeGate* gate) : gate_(gate) { gate_->Close(); }
    ~Alone() { gate_->Open(); }
    Alone(const Alone&) = delete;
    Alone& operator=(const Alone&) = delete;

   private:
    ChangeGate* const gate_;
  };

 private:
  base::Mutex mutex_;
  std::condition_variable changed_;
  int inside_ ABSL_GUARDED_BY(mutex_) = 0;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace normd::registry

#endif  // NORMD_SERVER_REGISTRY_CHANGE_GATE_H_
