#include "server/store/sqlite/log_flusher.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <mutex>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace normd::store {

absl::StatusOr<std::unique_ptr<LogFlusher>> LogFlusher::Open(const std::string& path) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return absl::UnavailableError(absl::StrCat("state store ", path, ": ", std::strerror(errno)));
  return std::unique_ptr<LogFlusher>(new LogFlusher(file));
}

LogFlusher::~LogFlusher() {
  {
    const base::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
  close(file_);
}

void LogFlusher::FlushWithin(absl::Duration delay) {
  const Clock::time_point due = Clock::now() + absl::ToChronoNanoseconds(delay);
  {
    const base::MutexLock lock(&mutex_);
    if (due_ <= due) return;
    due_ = due;
  }
  wake_.notify_one();
}

void LogFlusher::Run() {
  std::unique_lock<std::mutex> lock(mutex_.native());
  while (!stopping_) {
    if (due_ == kNever) {
      wake_.wait(lock);
    } else if (Clock::now() < due_) {
      const Clock::time_point due = due_;
      wake_.wait_until(lock, due);
    } else {
      due_ = kNever;
      lock.unlock();
      fdatasync(file_);
      num_flushes_.fetch_add(1, std::memory_order_release);
      lock.lock();
    }
  }
}

}  // namespace normd::store
