#include "server/service/open_inference_statistics.h"

#include <cstddef>

#include "absl/status/status.h"

namespace normd::service {
namespace {

void SetSum(uint64_t count, absl::Duration time, ::inference::StatisticDuration* out) {
  out->set_count(count);
  out->set_ns(static_cast<uint64_t>(absl::ToInt64Nanoseconds(time)));
}

}  // namespace

void OpenInferenceStatistics::OnCall(const CallRecord& record) {
  next_->OnCall(record);
  // Whoever asks for what does not exist makes no entry.
  const bool success = record.status.ok();
  const base::MutexLock lock(&mutex_);
  auto found = entries_.find(record.layer);
  if (found == entries_.end()) {
    if (!success || entries_.size() >= static_cast<std::size_t>(registry_->options().max_layers)) return;
    found = entries_.emplace(record.layer, Entry{}).first;
  }
  Sum& sum = success ? found->second.success : found->second.fail;
  ++sum.count;
  sum.time += record.duration;
  found->second.last = absl::Now();
}

absl::StatusOr<::inference::ModelStatisticsResponse> OpenInferenceStatistics::Get(const std::string& name,
                                                                                  const access::Caller& caller) {
  ::inference::ModelStatisticsResponse response;
  const auto add = [&response](const std::string& layer, const Entry& entry) {
    ::inference::ModelStatistics* const out = response.add_model_stats();
    out->set_name(layer);
    if (entry.last > absl::UnixEpoch()) out->set_last_inference(static_cast<uint64_t>(absl::ToUnixMillis(entry.last)));
    out->set_inference_count(entry.success.count);
    out->set_execution_count(entry.success.count);
    SetSum(entry.success.count, entry.success.time, out->mutable_inference_stats()->mutable_success());
    SetSum(entry.fail.count, entry.fail.time, out->mutable_inference_stats()->mutable_fail());
  };
  if (!name.empty()) {
    const auto layer = registry_->Find(name);
    if (!layer.ok()) return layer.status();
    const base::MutexLock lock(&mutex_);
    const auto found = entries_.find(name);
    add(name, found == entries_.end() ? Entry{} : found->second);
    return response;
  }
  const base::MutexLock lock(&mutex_);
  for (auto it = entries_.begin(); it != entries_.end();) {
    if (registry_->Find(it->first).ok()) {
      if (caller.Allows(access::Role::kRead, it->first)) add(it->first, it->second);
      ++it;
    } else {
      it = entries_.erase(it);
    }
  }
  return response;
}

}  // namespace normd::service
