#include "server/registry/watch_hub.h"

#include <algorithm>

namespace normd::registry {

WatchHub::WatchHub() : thread_([this] { Run(); }) {}

WatchHub::~WatchHub() {
  {
    const base::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void WatchHub::Changed(absl::string_view name) {
  // A watcher that comes at this moment reads the layer after it, and sees the change there.
  if (!watched_.load(std::memory_order_seq_cst)) return;
  bool first = false;
  {
    const base::MutexLock lock(&mutex_);
    first = changed_.empty();
    changed_.emplace(name);
  }
  if (first) wake_.notify_one();
}

void WatchHub::Add(Watcher* watcher) {
  const base::MutexLock lock(&watchers_mutex_);
  watchers_.insert(watcher);
  watched_.store(true, std::memory_order_seq_cst);
}

void WatchHub::Remove(Watcher* watcher) {
  const base::MutexLock lock(&watchers_mutex_);
  watchers_.erase(watcher);
  watched_.store(!watchers_.empty(), std::memory_order_seq_cst);
}

void WatchHub::Poke() {
  {
    const base::MutexLock lock(&mutex_);
    poked_ = true;
  }
  wake_.notify_one();
}

void WatchHub::Run() {
  Clock::time_point due = Clock::time_point::max();
  while (true) {
    std::vector<std::string> changed;
    {
      std::unique_lock<std::mutex> lock(mutex_.native());
      const auto ready = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return !changed_.empty() || poked_ || stopping_; };
      if (due == Clock::time_point::max()) {
        wake_.wait(lock, ready);
      } else {
        wake_.wait_until(lock, due, ready);
      }
      if (stopping_) return;
      poked_ = false;
      changed.assign(changed_.begin(), changed_.end());
      changed_.clear();
    }
    due = Clock::time_point::max();
    const base::MutexLock lock(&watchers_mutex_);
    for (Watcher* watcher : watchers_) due = std::min(due, watcher->Wake(changed, Clock::now()));
  }
}

}  // namespace normd::registry
