#ifndef NORMD_TESTS_SERVER_STORE_STORE_DATA_H_
#define NORMD_TESTS_SERVER_STORE_STORE_DATA_H_

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>

#include "server/layer/content_hash.h"
#include "server/layer/layer_state.h"
#include "server/store/state_store.h"

namespace normd::tests {

// A layer whose every field differs from its default, with `seed` in its numbers.
inline store::StateStore::SnapshotPtr SomeLayer(const std::string& name, double seed, int64_t num_channels = 3) {
  auto snapshot = std::make_shared<layer::LayerSnapshot>();
  layer::LayerConfig config;
  config.num_channels = num_channels;
  config.eps = 1e-3;
  config.averaging = layer::Averaging::kPooled;
  config.update_weight = 0.25;
  config.running_var_estimator = layer::VarianceEstimator::kSample;
  config.normalize_training_with = layer::TrainingStatistics::kRunningAfterUpdate;
  config.clip = 7.5;
  config.non_finite_policy = layer::NonFinitePolicy::kPropagate;
  config.frozen = true;
  layer::Statistics statistics = layer::Statistics::Initial(config);
  layer::Affine affine = layer::Affine::Initial(config);
  layer::OptimizerState optimizer;
  optimizer.kind = layer::OptimizerState::Kind::kAdam;
  optimizer.num_steps = 11;
  statistics.num_batches_tracked = 5;
  for (int64_t c = 0; c < num_channels; ++c) {
    const double value = seed + static_cast<double>(c) / 3;
    const auto i = static_cast<std::size_t>(c);
    statistics.running_mean[i] = value;
    statistics.running_var[i] = value * value;
    statistics.sample_count[i] = 1e15 + value;
    statistics.skipped_batches.push_back(c);
    affine.gamma[i] = -value;
    affine.beta[i] = value / 7;
    for (std::vector<double>* list : {&optimizer.gamma_momentum, &optimizer.beta_momentum,
                                      &optimizer.gamma_second_moment, &optimizer.beta_second_moment}) {
      list->push_back(value * static_cast<double>(list->size() + 2));
    }
  }
  snapshot->name = name;
  snapshot->uid = "uid-of-" + name;
  snapshot->preset = "flax";
  snapshot->config = std::make_shared<layer::LayerConfig>(config);
  snapshot->statistics = std::make_shared<layer::Statistics>(statistics);
  snapshot->affine = std::make_shared<layer::Affine>(affine);
  snapshot->optimizer = std::make_shared<layer::OptimizerState>(optimizer);
  snapshot->contributors = std::make_shared<layer::Contributors>(layer::Contributors::FromSorted(
      {{"actor", static_cast<int64_t>(seed) + 1}, {std::string("b\0'\xff", 4), 1LL << 60}}));
  snapshot->affine_group = "group";
  snapshot->version = 42;
  snapshot->config_version = 4;
  snapshot->content_hash = layer::ContentHash(config, statistics, affine);
  snapshot->create_time = absl::FromUnixNanos(1'700'000'000'123'456'789);
  snapshot->update_time = absl::FromUnixNanos(1'800'000'000'987'654'321);
  return snapshot;
}

// The next version of a layer, as a training step makes it, with `seed` in its statistics.
inline store::StateStore::SnapshotPtr NextStep(const layer::LayerSnapshot& before, double seed) {
  auto next = std::make_shared<layer::LayerSnapshot>(before);
  layer::Statistics statistics = *before.statistics;
  for (double& mean : statistics.running_mean) mean = seed;
  ++statistics.num_batches_tracked;
  next->version = before.version + 1;
  next->content_hash = layer::ContentHash(*before.config, statistics, *before.affine);
  next->statistics = std::make_shared<layer::Statistics>(std::move(statistics));
  return next;
}

inline void ExpectSame(const layer::LayerSnapshot& got, const layer::LayerSnapshot& want) {
  EXPECT_EQ(got.name, want.name);
  EXPECT_EQ(got.uid, want.uid);
  EXPECT_EQ(got.preset, want.preset);
  EXPECT_EQ(*got.config, *want.config);
  EXPECT_EQ(*got.statistics, *want.statistics);
  EXPECT_EQ(*got.affine, *want.affine);
  EXPECT_EQ(*got.optimizer, *want.optimizer);
  EXPECT_EQ(*got.contributors, *want.contributors);
  EXPECT_EQ(got.version, want.version);
  EXPECT_EQ(got.config_version, want.config_version);
  EXPECT_EQ(got.content_hash, want.content_hash);
  EXPECT_EQ(got.create_time, want.create_time);
  EXPECT_EQ(got.update_time, want.update_time);
  EXPECT_EQ(got.affine_group, want.affine_group);
}

inline store::Update Put(store::StateStore::SnapshotPtr snapshot, store::StateStore::SnapshotPtr replaces = nullptr) {
  store::Update update;
  update.put = std::move(snapshot);
  update.replaces = std::move(replaces);
  return update;
}

inline store::Update Request(const std::string& layer_uid, int64_t sequence, const std::string& request_id) {
  store::Update update;
  update.request = store::RequestRecord{.layer_uid = layer_uid,
                                        .sequence = sequence,
                                        .request_id = request_id,
                                        .time = absl::FromUnixNanos(123'456'789),
                                        .outcome = {.fingerprint = 0xfedcba9876543210,
                                                    .version = sequence + 1,
                                                    .content_hash = "hash",
                                                    .num_batches_tracked = 9,
                                                    .uid = "made"}};
  return update;
}

}  // namespace normd::tests

#endif  // NORMD_TESTS_SERVER_STORE_STORE_DATA_H_
