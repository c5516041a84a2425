#include "server/registry/committer.h"

#include <chrono>
#include <string>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "server/layer/layer_error.h"
#include "server/registry/layer_entry.h"

namespace normd::registry {
namespace {

// Each holds a version of its layer in memory. Reached only while the disk stands still.
constexpr std::size_t kMaxWaiting = 16384;
// Transactions that somebody who brings a change carries out in a row.
constexpr int kRoundsForOthers = 4;

}  // namespace

AgainQueue::AgainQueue() : thread_([this] { Run(); }) {}

AgainQueue::~AgainQueue() {
  {
    const base::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void AgainQueue::Add(Job job) {
  {
    const base::MutexLock lock(&mutex_);
    jobs_.push_back(std::move(job));
  }
  wake_.notify_one();
}

void AgainQueue::Run() {
  std::unique_lock<std::mutex> lock(mutex_.native());
  while (true) {
    wake_.wait(lock, [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return !jobs_.empty() || stopping_; });
    if (jobs_.empty()) return;
    Job job = std::move(jobs_.front());
    jobs_.pop_front();
    lock.unlock();
    job();
    // With all that it holds.
    job = nullptr;
    lock.lock();
  }
}

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
    : store_(store),
      shared_(store->shared()),
      again_(shared_ == nullptr ? nullptr : std::make_unique<AgainQueue>()),
      thread_([this] { Run(); }) {}

Committer::~Committer() {
  {
    const base::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

absl::StatusOr<PendingCommitPtr> Committer::Submit(Change change) {
  auto pending = std::make_shared<PendingCommit>(again_.get());
  const base::MutexLock lock(&mutex_);
  if (waiting_.size() >= kMaxWaiting) {
    return absl::ResourceExhaustedError(absl::StrCat("nothing has changed: ", kMaxWaiting,
                                                     " changes wait for the state store, which does not keep up"));
  }
  waiting_.push_back({std::move(change), pending});
  return pending;
}

void Committer::Drive() {
  std::unique_lock<std::mutex> lock(mutex_.native());
  if (store_->waits_for_disk()) {
    handed_over_ = true;
  } else {
    ++num_callers_;
    int rounds = 0;
    while (rounds < kRoundsForOthers && !waiting_.empty() && !driving_ && !handed_over_ && users_ == 0) {
      StoreWaiting(&lock);
      ++rounds;
    }
    --num_callers_;
    // Whoever stores for others wants to go on with his own call some time.
    if (!waiting_.empty() && !driving_ && users_ == 0) handed_over_ = true;
  }
  if (handed_over_ || stopping_) wake_.notify_one();
}

void Committer::StoreWaiting(std::unique_lock<std::mutex>* lock) {
  std::vector<Waiting> batch;
  batch.swap(waiting_);
  driving_ = true;
  lock->unlock();
  const std::vector<PendingCommitPtr> stored = Store(std::move(batch));
  lock->lock();
  driving_ = false;
  if (users_ > 0) unused_.notify_one();
  lock->unlock();
  // Meanwhile another may store what has come.
  for (const PendingCommitPtr& pending : stored) pending->Resolve(absl::OkStatus());
  lock->lock();
}

absl::Status Committer::UseStore(absl::FunctionRef<absl::Status(store::StateStore*)> use) {
  std::unique_lock<std::mutex> lock(mutex_.native());
  ++users_;
  while (driving_) unused_.wait(lock);
  if (!waiting_.empty()) StoreWaiting(&lock);
  while (driving_) unused_.wait(lock);
  --users_;
  driving_ = true;
  lock.unlock();
  absl::Status status = use(store_);
  lock.lock();
  driving_ = false;
  // Those who came meanwhile have left it to the thread.
  handed_over_ = !waiting_.empty();
  if (users_ > 0) unused_.notify_one();
  wake_.notify_one();
  return status;
}

void Committer::Run() {
  std::unique_lock<std::mutex> lock(mutex_.native());
  while (true) {
    wake_.wait(lock, [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
      return !driving_ && users_ == 0 && ((handed_over_ && !waiting_.empty()) || (stopping_ && num_callers_ == 0));
    });
    if (!waiting_.empty()) StoreWaiting(&lock);
    // Those who came meanwhile have left it to this thread.
    handed_over_ = !waiting_.empty();
    if (stopping_ && !handed_over_) return;
  }
}

std::vector<PendingCommitPtr> Committer::Store(std::vector<Waiting> batch) {
  // How far the batch brings a layer.
  struct Progress {
    LayerEntry::SnapshotPtr newest;
    // One after the other, ending with `newest`.
    std::vector<LayerEntry::SnapshotPtr> versions;
    // The update that does so; absent: none.
    std::optional<std::size_t> put;
  };
  absl::flat_hash_map<std::shared_ptr<LayerEntry>, Progress> layers;
  // Of those that are accepted, one each.
  std::vector<store::Update> updates;
  std::vector<Waiting> accepted;
  std::vector<Waiting> orphans;
  for (Waiting& waiting : batch) {
    store::Update& update = waiting.change.update;
    const auto [layer, first] = layers.try_emplace(waiting.change.entry);
    Progress& progress = layer->second;
    if (first) progress.newest = layer->first->Snapshot();
    if (progress.newest != update.replaces) {
      orphans.push_back(std::move(waiting));
      continue;
    }
    if (update.put != nullptr) {
      progress.newest = update.put;
      progress.versions.push_back(update.put);
      if (progress.put.has_value()) {
        // Only the newest of several versions has to be written, as the successor of what is stored.
        store::Update& before = updates[*progress.put];
        update.replaces = before.replaces;
        before.put = nullptr;
      }
      progress.put = updates.size();
    }
    updates.push_back(std::move(waiting.change.update));
    accepted.push_back(std::move(waiting));
  }

  absl::Status status = updates.empty() ? absl::OkStatus() : Write(updates);
  while (store::IsConflict(status)) {
    const std::vector<std::string> uids = store::ConflictUids(status);
    // What becomes of the changes of those that are behind.
    absl::flat_hash_map<std::shared_ptr<LayerEntry>, absl::Status> behind;
    for (const auto& [entry, progress] : layers) {
      if (!absl::c_linear_search(uids, entry->Snapshot()->uid)) continue;
      const absl::Status refreshed = RefreshNow(entry.get());
      behind.emplace(entry, refreshed.ok() ? status : refreshed);
    }
    if (behind.empty()) break;
    for (const auto& [entry, fate] : behind) layers.erase(entry);
    std::vector<store::Update> rest;
    std::vector<Waiting> still_accepted;
    for (std::size_t i = 0; i < accepted.size(); ++i) {
      const auto found = behind.find(accepted[i].change.entry);
      if (found != behind.end()) {
        TakeBack(accepted[i], updates[i], found->second);
      } else {
        rest.push_back(std::move(updates[i]));
        still_accepted.push_back(std::move(accepted[i]));
      }
    }
    updates = std::move(rest);
    accepted = std::move(still_accepted);
    status = updates.empty() ? absl::OkStatus() : Write(updates);
  }
  if (status.ok()) {
    for (std::size_t i = 0; shared_ != nullptr && i < accepted.size(); ++i) {
      accepted[i].change.entry->MarkStored(updates[i]);
    }
    for (const auto& [entry, progress] : layers) {
      if (!progress.versions.empty()) entry->Publish(progress.versions);
    }
  }
  std::vector<PendingCommitPtr> stored;
  for (std::size_t i = 0; i < accepted.size(); ++i) {
    if (status.ok()) {
      stored.push_back(std::move(accepted[i].pending));
    } else {
      TakeBack(accepted[i], updates[i], status);
    }
  }
  for (const Waiting& orphan : orphans) {
    TakeBack(orphan, orphan.change.update,
             shared_ != nullptr ? store::ConflictError("another version is stored", {})
                                : absl::UnavailableError("an earlier change could not be stored"));
  }
  return stored;
}

absl::Status Committer::Write(absl::Span<const store::Update> updates) {
  const auto start = std::chrono::steady_clock::now();
  absl::Status status = store_->Write(updates);
  const absl::Duration duration = absl::FromChrono(std::chrono::steady_clock::now() - start);
  const base::MutexLock lock(&statistics_mutex_);
  statistics_.duration.Add(duration);
  if (status.ok()) {
    ++statistics_.transactions;
    statistics_.updates += static_cast<int64_t>(updates.size());
  } else {
    ++(store::IsConflict(status) ? statistics_.conflicts : statistics_.errors);
  }
  return status;
}

absl::Status Committer::RefreshNow(LayerEntry* entry) {
  return shared_->ReadLayers(
      {entry->QueryStored()},
      [entry](const auto&, const store::SharedStore::StoredLayer& stored) { entry->Follow(stored); });
}

absl::Status Committer::Refresh(const std::shared_ptr<LayerEntry>& entry) {
  return UseStore([&](store::StateStore*) { return RefreshNow(entry.get()); });
}

CommitStatistics Committer::statistics() const {
  const base::MutexLock lock(&statistics_mutex_);
  return statistics_;
}

void Committer::TakeBack(const Waiting& waiting, const store::Update& update, const absl::Status& cause) {
  waiting.change.entry->TakeBack(update, waiting.pending);
  if (store::IsConflict(cause)) return waiting.pending->Resolve(cause);
  waiting.pending->Resolve(layer::ForLayer(update.replaces->name, store::WriteFailure(cause)));
}

}  // namespace normd::registry
