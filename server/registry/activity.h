#ifndef NORMD_SERVER_REGISTRY_ACTIVITY_H_
#define NORMD_SERVER_REGISTRY_ACTIVITY_H_

#include <atomic>
#include <cstdint>
#include <limits>

#include "server/layer/layer_config.h"
#include "server/layer/layer_state.h"
#include "server/registry/fold.h"

// What has happened to layers since the server started, for those who watch it. Counted with relaxed atomics, so that
// a step pays next to nothing; numbers that are read together may belong to different moments.
namespace normd::registry {

// How far a batch is from the running statistics. NaN: not known.
struct Drift {
  // max over channels of |batch_mean - running_mean| / sqrt(running_var + eps).
  double mean = std::numeric_limits<double>::quiet_NaN();
  // max over channels of |ln((batch_var + eps) / (running_var + eps))|.
  double variance = std::numeric_limits<double>::quiet_NaN();
};

// Over the channels that the batch does not skip; not known if `before` holds no batch yet. Non-finite channels count
// as infinitely far.
Drift MeasureDrift(const layer::LayerConfig& config, const layer::Statistics& before, const BatchMoments& batch);

// Of all layers, deleted ones included. Thread-safe.
struct ActivityTotals {
  std::atomic<int64_t> folds = 0;
  std::atomic<int64_t> rejected_batches = 0;
  std::atomic<int64_t> replays = 0;
};

// Of one layer. Thread-safe.
class LayerActivity {
 public:
  // `totals` outlives this.
  explicit LayerActivity(ActivityTotals* totals) : totals_(totals) {}

  // A training step or merge has been folded in.
  void OnFold() { Count(&folds_, &ActivityTotals::folds); }
  // One was refused for its NaN or infinity.
  void OnRejected() { Count(&rejected_batches_, &ActivityTotals::rejected_batches); }
  // A call was recognised as a repetition.
  void OnReplay() { totals_->replays.fetch_add(1, std::memory_order_relaxed); }
  void OnDrift(const Drift& drift) {
    mean_drift_.store(drift.mean, std::memory_order_relaxed);
    variance_drift_.store(drift.variance, std::memory_order_relaxed);
  }

  int64_t folds() const { return folds_.load(std::memory_order_relaxed); }
  int64_t rejected_batches() const { return rejected_batches_.load(std::memory_order_relaxed); }
  // Of the latest training step.
  Drift drift() const {
    return {mean_drift_.load(std::memory_order_relaxed), variance_drift_.load(std::memory_order_relaxed)};
  }

 private:
  void Count(std::atomic<int64_t>* mine, std::atomic<int64_t> ActivityTotals::*total) {
    mine->fetch_add(1, std::memory_order_relaxed);
    (totals_->*total).fetch_add(1, std::memory_order_relaxed);
  }

  ActivityTotals* const totals_;
  std::atomic<int64_t> folds_ = 0;
  std::atomic<int64_t> rejected_batches_ = 0;
  std::atomic<double> mean_drift_ = std::numeric_limits<double>::quiet_NaN();
  std::atomic<double> variance_drift_ = std::numeric_limits<double>::quiet_NaN();
};

}  // namespace normd::registry

#endif  // NORMD_SERVER_REGISTRY_ACTIVITY_H_
