#include "server/metrics/call_statistics.h"

#include <atomic>
#include <cstddef>

namespace normd::metrics {
namespace {

// One after the other, so that as many threads as there are places have one each.
std::size_t ThreadNumber() {
  static std::atomic<std::size_t> next = 0;
  thread_local const std::size_t number = next.fetch_add(1, std::memory_order_relaxed);
  return number;
}

}  // namespace

void CallStatistics::Count(const service::CallRecord& record) {
  const auto code = static_cast<std::size_t>(record.status.code());
  Shard& shard = shards_[ThreadNumber() % kShards];
  const base::MutexLock lock(&shard.mutex);
  MethodCounts& counts = shard.methods[record.method];
  ++counts.codes[code < counts.codes.size() ? code : static_cast<std::size_t>(absl::StatusCode::kUnknown)];
  counts.duration.Add(record.duration);
  counts.request_bytes += record.request_bytes;
  counts.response_bytes += record.response_bytes;
}

std::map<std::string, MethodCounts> CallStatistics::Sum() const {
  std::map<std::string, MethodCounts> sum;
  for (const Shard& shard : shards_) {
    const base::MutexLock lock(&shard.mutex);
    for (const auto& [method, counts] : shard.methods) {
      MethodCounts& total = sum[method];
      for (std::size_t i = 0; i < counts.codes.size(); ++i) total.codes[i] += counts.codes[i];
      total.duration.Merge(counts.duration);
      total.request_bytes += counts.request_bytes;
      total.response_bytes += counts.response_bytes;
    }
  }
  return sum;
}

}  // namespace normd::metrics
