#ifndef NORMD_SERVER_REGISTRY_REQUEST_LOG_H_
#define NORMD_SERVER_REGISTRY_REQUEST_LOG_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "absl/container/node_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "server/base/clock.h"
#include "server/store/state_store.h"

namespace normd::registry {

// How many mutations are remembered, and for how long.
struct RequestLimits {
  // Of a layer.
  std::size_t per_layer = 100'000;
  absl::Duration window = absl::Hours(24);
  // Of all layers together. A layer that changes while there are more gives its own oldest up.
  int64_t total = 1'000'000;
};

// Remembers the latest mutations of a layer by request_id, so that a retry is answered with what the first attempt did,
// and numbers them for the store. What it remembers ages by Clock::Elapsed, so that setting the wall clock makes it
// forget nothing and keep nothing; only across a restart is there nothing else to go by. Not thread-safe.
class RequestLog {
 public:
  using Outcome = store::RequestOutcome;

  // `total` counts what all logs of a server remember; it and `clock` outlive them.
  RequestLog(const RequestLimits& limits, const base::Clock* clock, std::atomic<int64_t>* total)
      : limits_(limits), clock_(clock), total_(total) {}
  ~RequestLog();
  RequestLog(const RequestLog&) = delete;
  RequestLog& operator=(const RequestLog&) = delete;

  // The outcome remembered for `request_id`, or null if there is none or the id is empty. INVALID_ARGUMENT: it is
  // remembered with another fingerprint. The pointer lives until the next change of the log.
  absl::StatusOr<const Outcome*> Find(absl::string_view request_id, uint64_t fingerprint) const;

  // Puts into `update` what the store has to remember of a change of the layer with this uid, and what it may forget;
  // nothing for an empty id. Changes nothing yet.
  void Prepare(absl::string_view layer_uid, absl::string_view request_id, const Outcome& outcome,
               store::Update* update) const;
  // Remembers what was prepared. REQUIRES: Find returned null for its id.
  void Record(const store::Update& update);
  // What Record did, and MarkStored or Adopt has not confirmed, is no longer so: the store could not do it.
  void TakeBack(absl::string_view request_id);
  // What Record did is stored. Needed only where other servers write, too.
  void MarkStored(absl::string_view request_id);
  // The latest of those that are stored.
  store::RequestMark LastStored() const;
  // Takes over records that another server has stored: what comes after LastStored or, if `all`, all that there is.
  void Adopt(const std::vector<store::RequestRecord>& records, bool all);
  // Remembers what the store remembers, in the order of the sequence. It is as old as the wall clock says, and new if
  // its time has not come yet.
  void Restore(const store::RequestRecord& record);

  // Of the records of this layer from elsewhere those that are not remembered, numbered to be recorded here.
  std::vector<store::RequestRecord> Unknown(const std::vector<store::RequestRecord>& records) const;

  std::size_t size() const { return order_.size(); }

 private:
  struct Entry {
    // Of the outcome, in its node.
    absl::string_view request_id;
    int64_t sequence;
    // By Clock::Elapsed; below 0 for what is older than that.
    absl::Duration time;
    // As far as that is told.
    bool stored;
  };

  void Add(const store::RequestRecord& record, absl::Duration time, bool stored);
  // Of the age that the wall clock says.
  void AddOld(const store::RequestRecord& record);
  // The latest; 0: there was none.
  int64_t LastSequence() const { return order_.empty() ? forgotten_through_ : order_.back().sequence; }
  void Erase(std::deque<Entry>::iterator entry);
  void ForgetOldest();

  const RequestLimits limits_;
  const base::Clock* const clock_;
  std::atomic<int64_t>* const total_;
  absl::node_hash_map<std::string, Outcome> outcomes_;
  // The oldest first.
  std::deque<Entry> order_;
  int64_t next_sequence_ = 1;
  // Forgotten here, but perhaps not by the store, which is told of many at a time.
  int64_t forgotten_through_ = 0;
  int64_t store_forgot_through_ = 0;
};

}  // namespace normd::registry

#endif  // NORMD_SERVER_REGISTRY_REQUEST_LOG_H_
