#include "server/app/memory_trimmer.h"

#include <utility>

namespace normd::app {

MemoryTrimmer::MemoryTrimmer(absl::Duration quiet, Trim trim, Wait wait)
    : quiet_(quiet), trim_(std::move(trim)), wait_(std::move(wait)), thread_([this] { Run(); }) {}

MemoryTrimmer::~MemoryTrimmer() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

bool MemoryTrimmer::WaitForReal(std::unique_lock<std::mutex>& lock, std::condition_variable& changed,
                                absl::Duration delay, const std::function<bool()>& stop) {
  return !changed.wait_for(lock, absl::ToChronoNanoseconds(delay), stop);
}

void MemoryTrimmer::Wake() {
  {
    // Not between the thread's last look and its sleep.
    const std::lock_guard<std::mutex> lock(mutex_);
    called_.store(true, std::memory_order_relaxed);
  }
  changed_.notify_all();
}

void MemoryTrimmer::Run() {
  std::unique_lock<std::mutex> lock(mutex_);
  bool all_given_back = true;
  while (true) {
    if (all_given_back) changed_.wait(lock, [this] { return stopping_ || called_.load(std::memory_order_relaxed); });
    if (stopping_) return;
    called_.store(false, std::memory_order_relaxed);
    if (!wait_(lock, changed_, quiet_, [this] { return stopping_; })) return;
    const bool calls_come = called_.load(std::memory_order_relaxed);
    lock.unlock();
    all_given_back = trim_(calls_come ? quiet_ : absl::ZeroDuration()) && !calls_come;
    lock.lock();
  }
}

}  // namespace normd::app
