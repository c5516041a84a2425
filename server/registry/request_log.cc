#include "server/registry/request_log.h"

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace normd::registry {

absl::StatusOr<const RequestLog::Outcome*> RequestLog::Find(absl::string_view request_id, uint64_t fingerprint) const {
  if (request_id.empty()) return nullptr;
  const auto found = outcomes_.find(request_id);
  if (found == outcomes_.end()) return nullptr;
  if (found->second.fingerprint != fingerprint) {
    return absl::InvalidArgumentError(absl::StrCat("request_id '", absl::CHexEscape(request_id),
                                                   "' was used before for another call, want a fresh one per call"));
  }
  return &found->second;
}

void RequestLog::Record(absl::string_view request_id, const Outcome& outcome) {
  if (request_id.empty() || capacity_ == 0) return;
  if (order_.size() == capacity_) outcomes_.erase(order_[next_]);
  const absl::string_view key = outcomes_.emplace(request_id, outcome).first->first;
  if (order_.size() < capacity_) {
    order_.push_back(key);
  } else {
    order_[next_] = key;
    next_ = (next_ + 1) % capacity_;
  }
}

}  // namespace normd::registry
