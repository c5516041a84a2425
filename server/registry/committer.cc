#include "server/registry/committer.h"

#include <algorithm>
#include <chrono>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/layer/layer_error.h"
#include "server/registry/layer_entry.h"

namespace normd::registry {
namespace {

// Each holds a version of its layer in memory. Reached only while the disk stands still.
constexpr std::size_t kMaxWaiting = 16384;
// Transactions that somebody who brings a change carries out in a row.
constexpr int kRoundsForOthers = 4;
// Between two looks whether the store is free for a sync that is due.
constexpr std::chrono::milliseconds kSyncRetry(1);

absl::Status NotStored(const layer::LayerSnapshot* snapshot, const absl::Status& cause) {
  const std::string prefix = snapshot == nullptr ? "" : layer::LayerPrefix(snapshot->name);
  return absl::Status(cause.code(), absl::StrCat(prefix, "nothing has changed: ", cause.message()));
}

}  // namespace

void PendingCommit::Then(Done done) {
  {
    const base::MutexLock lock(&mutex_);
    if (!status_.has_value()) {
      done_.push_back(std::move(done));
      return;
    }
  }
  done(*status_);  // Never changes again.
}

absl::Status PendingCommit::Wait() {
  std::unique_lock<std::mutex> lock(mutex_.native());
  wake_.wait(lock, [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return status_.has_value(); });
  return *status_;
}

bool PendingCommit::resolved() const {
  const base::MutexLock lock(&mutex_);
  return status_.has_value();
}

void PendingCommit::Resolve(const absl::Status& status) {
  std::vector<Done> done;
  {
    const base::MutexLock lock(&mutex_);
    status_ = status;
    done.swap(done_);
  }
  wake_.notify_all();
  for (Done& call : done) call(status);
}

absl::Status WaitFor(const PendingCommitPtr& pending) {
  return pending == nullptr ? absl::OkStatus() : pending->Wait();
}

Committer::Committer(store::StateStore* store)
    : store_(store), syncs_(store->sync_interval() != absl::InfiniteDuration()), thread_([this] { Run(); }) {}

Committer::~Committer() {
  {
    const base::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

absl::StatusOr<PendingCommitPtr> Committer::Submit(Change change) {
  auto pending = std::make_shared<PendingCommit>();
  const base::MutexLock lock(&mutex_);
  if (waiting_.size() >= kMaxWaiting) {
    return absl::ResourceExhaustedError(absl::StrCat("nothing has changed: ", kMaxWaiting,
                                                     " changes wait for the state store, which does not keep up"));
  }
  waiting_.push_back({std::move(change), pending});
  return pending;
}

void Committer::Drive() {
  bool wake = store_->waits_for_disk();
  {
    std::unique_lock<std::mutex> lock(mutex_.native());
    if (wake) {
      handed_over_ = true;
    } else {
      if (driving_ || handed_over_) return;
      const bool was_dirty = dirty_;
      driving_ = true;
      for (int round = 0; round < kRoundsForOthers && !waiting_.empty(); ++round) StoreWaiting(&lock);
      driving_ = false;
      // Whoever stores for others wants to go on with his own call some time.
      handed_over_ = !waiting_.empty();
      wake = handed_over_ || stopping_ || (dirty_ && !was_dirty);
    }
  }
  if (wake) wake_.notify_one();
}

void Committer::StoreWaiting(std::unique_lock<std::mutex>* lock) {
  std::vector<Waiting> batch;
  batch.swap(waiting_);
  lock->unlock();
  Store(std::move(batch));
  lock->lock();
  dirty_ = syncs_;
}

void Committer::Run() {
  using Clock = std::chrono::steady_clock;
  const auto interval = absl::ToChronoNanoseconds(std::min(store_->sync_interval(), absl::Hours(24)));
  Clock::time_point sync_at = Clock::now() + interval;
  std::unique_lock<std::mutex> lock(mutex_.native());
  while (true) {
    const auto ready = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
      return !driving_ && ((handed_over_ && !waiting_.empty()) || stopping_ || (dirty_ && Clock::now() >= sync_at));
    };
    if (dirty_) {
      wake_.wait_until(lock, std::max(sync_at, Clock::now() + kSyncRetry), ready);
    } else {
      wake_.wait(lock, [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return ready() || dirty_; });
      sync_at = Clock::now() + interval;
    }
    if (!ready()) continue;
    driving_ = true;
    if (!waiting_.empty()) StoreWaiting(&lock);
    if (dirty_ && (Clock::now() >= sync_at || stopping_)) {
      lock.unlock();
      const bool synced = store_->Sync().ok();
      lock.lock();
      // Tried again after the next interval if it failed: what was written is still as safe as before.
      dirty_ = !synced;
      sync_at = Clock::now() + interval;
    }
    driving_ = false;
    // Those who came meanwhile have left it to this thread.
    handed_over_ = !waiting_.empty();
    if (stopping_ && !handed_over_) return;
  }
}

void Committer::Store(std::vector<Waiting> batch) {
  // Of each layer the version that this batch has brought it to.
  std::unordered_map<const LayerEntry*, store::StateStore::SnapshotPtr> newest;
  // And the update in `updates` that does so.
  std::unordered_map<const LayerEntry*, std::size_t> last_put;
  std::vector<store::Update> updates;
  std::vector<Waiting> accepted;
  std::vector<Waiting> orphans;
  for (Waiting& waiting : batch) {
    const LayerEntry* const entry = waiting.change.entry.get();
    store::Update& update = waiting.change.update;
    if (entry != nullptr) {
      auto [known, first] = newest.try_emplace(entry, nullptr);
      if (first) known->second = waiting.change.entry->Snapshot();
      if (known->second != update.replaces) {
        orphans.push_back(std::move(waiting));
        continue;
      }
    }
    if (entry != nullptr && update.put != nullptr) {
      newest[entry] = update.put;
      const auto [put, new_put] = last_put.try_emplace(entry, updates.size());
      if (!new_put) {
        // Only the newest of several versions has to be written, as the successor of what is stored.
        store::Update& before = updates[put->second];
        update.replaces = before.replaces;
        before.put = nullptr;
        put->second = updates.size();
      }
    }
    updates.push_back(update);
    accepted.push_back(std::move(waiting));
  }

  const absl::Status status = updates.empty() ? absl::OkStatus() : store_->Write(updates);
  if (status.ok()) {
    for (const Waiting& waiting : accepted) {
      const Change& change = waiting.change;
      if (change.entry != nullptr && change.update.put != nullptr) change.entry->Publish(change.update.put);
      waiting.pending->Resolve(absl::OkStatus());
    }
  }
  const auto take_back = [](const Waiting& waiting, const absl::Status& cause) {
    const Change& change = waiting.change;
    if (change.entry != nullptr) change.entry->TakeBack(change.update, waiting.pending);
    waiting.pending->Resolve(NotStored(change.update.put.get(), cause));
  };
  if (!status.ok()) {
    for (const Waiting& waiting : accepted) take_back(waiting, status);
  }
  for (const Waiting& waiting : orphans) {
    take_back(waiting, absl::UnavailableError("an earlier change could not be stored"));
  }
}

}  // namespace normd::registry
