#include "server/base/compute_thread.h"

#include <sys/resource.h>

#include <mutex>
#include <utility>

namespace normd::base {
namespace {

constexpr int kNiceness = 10;

}  // namespace

ComputeThread::ComputeThread(std::size_t max_waiting) : max_waiting_(max_waiting), thread_([this] { Run(); }) {}

ComputeThread::~ComputeThread() {
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

bool ComputeThread::Submit(Job& job) {
  {
    MutexLock lock(&mutex_);
    if (waiting_.size() >= max_waiting_) return false;
    waiting_.push_back(std::move(job));
  }
  wake_.notify_one();
  return true;
}

std::size_t ComputeThread::waiting() const {
  const MutexLock lock(&mutex_);
  return waiting_.size();
}

void ComputeThread::Run() {
  // Below the threads that serve: a call that takes microseconds does not wait for one that takes milliseconds. The
  // team that this thread makes inherits it.
  setpriority(PRIO_PROCESS, 0, kNiceness);
  std::unique_lock<std::mutex> lock(mutex_.native());
  while (true) {
    wake_.wait(lock, [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return stopping_ || !waiting_.empty(); });
    if (waiting_.empty()) return;
    Job job = std::move(waiting_.front());
    waiting_.pop_front();
    lock.unlock();
    job();
    job = nullptr;  // What the job holds goes before the next one may start, and not under the lock.
    lock.lock();
  }
}

}  // namespace normd::base
