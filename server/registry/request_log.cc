#include "server/registry/request_log.h"

#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace normd::registry {
namespace {

// Records that the store forgets at a time, so that not every change deletes one.
constexpr int64_t kForgetAtATime = 256;

}  // namespace

RequestLog::~RequestLog() { total_->fetch_sub(static_cast<int64_t>(order_.size()), std::memory_order_relaxed); }

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

void RequestLog::Prepare(absl::string_view layer_uid, absl::string_view request_id, const Outcome& outcome,
                         store::Update* update) const {
  if (request_id.empty()) return;
  update->request = store::RequestRecord{.layer_uid = std::string(layer_uid),
                                         .sequence = next_sequence_,
                                         .request_id = std::string(request_id),
                                         .time = clock_->Now(),
                                         .outcome = outcome};
  update->request_after = LastSequence();
  if (forgotten_through_ - store_forgot_through_ >= kForgetAtATime) update->forget_through = forgotten_through_;
}

void RequestLog::Record(const store::Update& update) {
  if (!update.request.has_value()) return;
  store_forgot_through_ = std::max(store_forgot_through_, update.forget_through);
  const absl::Duration now = clock_->Elapsed();
  Add(*update.request, now, false);
  while (!order_.empty() && order_.front().time < now - limits_.window) ForgetOldest();
}

void RequestLog::Restore(const store::RequestRecord& record) { AddOld(record); }

void RequestLog::AddOld(const store::RequestRecord& record) {
  const absl::Duration age = std::max(absl::ZeroDuration(), clock_->Now() - record.time);
  Add(record, clock_->Elapsed() - age, true);
}

void RequestLog::MarkStored(absl::string_view request_id) {
  const auto found =
      std::find_if(order_.rbegin(), order_.rend(), [&](const Entry& entry) { return entry.request_id == request_id; });
  if (found != order_.rend()) found->stored = true;
}

store::RequestMark RequestLog::LastStored() const {
  const auto found = std::find_if(order_.rbegin(), order_.rend(), [](const Entry& entry) { return entry.stored; });
  if (found == order_.rend()) return {};
  return {found->sequence, std::string(found->request_id)};
}

void RequestLog::Adopt(const std::vector<store::RequestRecord>& records, bool all) {
  const auto erase_if = [this](const auto& goes) {
    for (std::size_t i = order_.size(); i-- > 0;) {
      if (goes(order_[i])) Erase(order_.begin() + static_cast<std::ptrdiff_t>(i));
    }
  };
  if (all) {
    erase_if([](const Entry& entry) { return entry.stored; });
    forgotten_through_ = 0;
    store_forgot_through_ = 0;
  }
  for (const store::RequestRecord& record : records) {
    // One that is on its way here, and that another server has carried out: its outcome is that.
    if (outcomes_.contains(record.request_id)) {
      erase_if([&](const Entry& entry) { return entry.request_id == record.request_id; });
    }
    AddOld(record);
  }
}

std::vector<store::RequestRecord> RequestLog::Unknown(const std::vector<store::RequestRecord>& records) const {
  std::vector<store::RequestRecord> unknown;
  for (const store::RequestRecord& record : records) {
    if (outcomes_.contains(record.request_id)) continue;
    unknown.push_back(record);
    unknown.back().sequence = next_sequence_ + static_cast<int64_t>(unknown.size()) - 1;
  }
  return unknown;
}

void RequestLog::Add(const store::RequestRecord& record, absl::Duration time, bool stored) {
  next_sequence_ = record.sequence + 1;
  const auto [node, added] = outcomes_.emplace(record.request_id, record.outcome);
  if (!added) return;
  order_.push_back({node->first, record.sequence, time, stored});
  total_->fetch_add(1, std::memory_order_relaxed);
  while (order_.size() > limits_.per_layer ||
         (order_.size() > 1 && total_->load(std::memory_order_relaxed) > limits_.total)) {
    ForgetOldest();
  }
}

void RequestLog::ForgetOldest() {
  forgotten_through_ = order_.front().sequence;
  outcomes_.erase(order_.front().request_id);
  order_.pop_front();
  total_->fetch_sub(1, std::memory_order_relaxed);
}

void RequestLog::Erase(std::deque<Entry>::iterator entry) {
  // The view goes with the node.
  const std::string request_id(entry->request_id);
  order_.erase(entry);
  outcomes_.erase(request_id);
  total_->fetch_sub(1, std::memory_order_relaxed);
}

void RequestLog::TakeBack(absl::string_view request_id) {
  const auto found = std::find_if(order_.rbegin(), order_.rend(),
                                  [&](const Entry& entry) { return entry.request_id == request_id && !entry.stored; });
  if (found != order_.rend()) Erase(std::next(found).base());
}

}  // namespace normd::registry
