#include "server/service/tensor_executor.h"

#include <algorithm>
#include <utility>

#include "absl/time/time.h"
#include "server/service/status_conversion.h"

namespace normd::service {
namespace {

// What a core computes at least, for the guess.
constexpr double kBytesPerSecond = 2e9;
constexpr absl::Duration kLeastDelay = absl::Milliseconds(20);
constexpr absl::Duration kMostDelay = absl::Seconds(5);

}  // namespace

absl::Status TensorExecutor::Overloaded(absl::string_view what) const {
  refused_.fetch_add(1, std::memory_order_relaxed);
  const double seconds = static_cast<double>(backlog_bytes_.load(std::memory_order_relaxed)) / kBytesPerSecond;
  return RetryLaterError(what, std::clamp(absl::Seconds(seconds), kLeastDelay, kMostDelay));
}

absl::Status TensorExecutor::Run(int64_t bytes, Job job) {
  if (kernels::ThreadsFor(bytes, cores_) == 1) {
    const kernels::BusyCores::Lease lease(&busy_inline_);
    job(1);
    return absl::OkStatus();
  }
  backlog_bytes_.fetch_add(bytes, std::memory_order_relaxed);
  // How many cores are idle is known only when its turn comes.
  base::ComputeThread::Job later = [this, bytes, due = std::move(job)]() mutable {
    due(kernels::ThreadsFor(bytes, cores_, busy_inline_.count()));
    backlog_bytes_.fetch_sub(bytes, std::memory_order_relaxed);
  };
  if (compute_thread_->Submit(later)) return absl::OkStatus();
  backlog_bytes_.fetch_sub(bytes, std::memory_order_relaxed);
  refused_for_queue_.fetch_add(1, std::memory_order_relaxed);
  return Overloaded("too many calls with large tensors wait for the compute thread");
}

}  // namespace normd::service
