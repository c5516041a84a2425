#include "server/registry/merge_moments.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/non_finite.h"
#include "tests/server/registry/registry_fixture.h"

namespace normd::registry {
namespace {

using absl::StatusCode;
using layer::Averaging;
using layer::LayerConfig;
using layer::NonFinitePolicy;
using layer::VarianceEstimator;
using ::testing::ElementsAre;
using tests::IsOk;
using tests::kInf;
using tests::kNaN;
using tests::StatusIs;
using tests::View;

// Row-major, (rows, channels).
struct Rows {
  std::vector<double> values;
  size_t channels;

  size_t size() const { return values.size() / channels; }
  Rows Slice(size_t begin, size_t end) const {
    return {std::vector<double>(values.begin() + static_cast<std::ptrdiff_t>(begin * channels),
                                values.begin() + static_cast<std::ptrdiff_t>(end * channels)),
            channels};
  }
};

// Channel c lies around 1000 * c with a spread of c + 1.
Rows SomeRows(size_t rows, size_t channels, uint32_t seed = 7) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  Rows made{{}, channels};
  for (size_t i = 0; i < rows * channels; ++i) {
    const auto c = static_cast<double>(i % channels);
    made.values.push_back(1000 * c + (c + 1) * normal(random));
  }
  return made;
}

// In two passes in long double, in the most direct words.
Moments MomentsOf(const Rows& rows) {
  Moments moments;
  moments.count = {static_cast<int64_t>(rows.size())};
  for (size_t c = 0; c < rows.channels; ++c) {
    long double sum = 0;
    for (size_t r = 0; r < rows.size(); ++r) sum += rows.values[r * rows.channels + c];
    const long double mean = sum / static_cast<long double>(rows.size());
    long double m2 = 0;
    double min = kInf;
    double max = -kInf;
    for (size_t r = 0; r < rows.size(); ++r) {
      const double value = rows.values[r * rows.channels + c];
      m2 += (value - mean) * (value - mean);
      min = std::min(min, value);
      max = std::max(max, value);
    }
    moments.mean.push_back(static_cast<double>(mean));
    moments.m2.push_back(static_cast<double>(m2));
    moments.min.push_back(min);
    moments.max.push_back(max);
  }
  return moments;
}

class MergeMomentsTest : public tests::RegistryTest {
 protected:
  absl::StatusOr<MergeMomentsResult> Merge(const std::string& layer, const Moments& moments,
                                           const std::string& contributor = "", int64_t sequence = 0,
                                           const std::string& request_id = "") {
    return MergeMoments(registry_, {layer, moments, contributor, sequence, request_id}, control_);
  }

  void ExpectStatistics(const std::string& name, const Rows& all, double ddof) {
    const auto snapshot = Get(name);
    const Moments want = MomentsOf(all);
    const auto n = static_cast<double>(all.size());
    for (size_t c = 0; c < all.channels; ++c) {
      EXPECT_EQ(snapshot->statistics->sample_count[c], n);
      EXPECT_NEAR(snapshot->statistics->running_mean[c], want.mean[c], 1e-13 * (1 + std::abs(want.mean[c])));
      const double var = want.m2[c] / (n - ddof);
      EXPECT_NEAR(snapshot->statistics->running_var[c], var, 1e-11 * var);
    }
  }
};

TEST_F(MergeMomentsTest, AnySplitAndOrderOfAPooledLayerIsOnePass) {
  const Rows all = SomeRows(257, 3);
  std::mt19937 random(1);
  for (const VarianceEstimator estimator : {VarianceEstimator::kPopulation, VarianceEstimator::kSample}) {
    for (int trial = 0; trial < 20; ++trial) {
      SCOPED_TRACE(trial);
      const std::string name = "l" + std::to_string(static_cast<int>(estimator)) + "_" + std::to_string(trial);
      MakeLayer(name, 3, "rl_observation", [&](LayerConfig& config) { config.running_var_estimator = estimator; });
      // The first trials are one piece and single rows.
      std::vector<size_t> cuts = {0, all.size()};
      const size_t pieces = trial == 0 ? 1 : trial == 1 ? all.size() : 2 + random() % 40;
      for (size_t i = 1; i < pieces; ++i) cuts.push_back(trial == 1 ? i : random() % all.size());
      std::sort(cuts.begin(), cuts.end());
      std::vector<Rows> parts;
      for (size_t i = 1; i < cuts.size(); ++i) {
        if (cuts[i] > cuts[i - 1]) parts.push_back(all.Slice(cuts[i - 1], cuts[i]));
      }
      std::shuffle(parts.begin(), parts.end(), random);
      for (const Rows& part : parts) NORMD_ASSERT_OK(Merge(name, MomentsOf(part)));
      ExpectStatistics(name, all, estimator == VarianceEstimator::kSample ? 1 : 0);
      EXPECT_EQ(Get(name)->statistics->num_batches_tracked, static_cast<int64_t>(parts.size()));
    }
  }
}

TEST_F(MergeMomentsTest, IsToTheLayerATrainStepWithTheSameValues) {
  const std::vector<std::function<void(LayerConfig&)>> changes = {
      [](LayerConfig&) {},
      [](LayerConfig& config) { config.running_var_estimator = VarianceEstimator::kSample; },
      [](LayerConfig& config) { config.averaging = Averaging::kExponentialDebiased; },
      [](LayerConfig& config) { config.averaging = Averaging::kCumulative; },
      [](LayerConfig& config) { config.averaging = Averaging::kPooled; },
  };
  int i = 0;
  for (const auto& change : changes) {
    const std::string merged = "merged" + std::to_string(i);
    const std::string trained = "trained" + std::to_string(i++);
    SCOPED_TRACE(merged);
    MakeLayer(merged, 2, "reference", change);
    MakeLayer(trained, 2, "reference", change);
    for (uint32_t batch = 0; batch < 5; ++batch) {
      const Rows rows = SomeRows(10 + batch, 2, batch);
      TrainStepInput step;
      step.layer = trained;
      step.x = View(rows.values, {static_cast<int64_t>(rows.size()), 2});
      NORMD_ASSERT_OK(TrainStep(registry_, step, control_, nullptr));
      NORMD_ASSERT_OK_AND_ASSIGN(const auto result, Merge(merged, MomentsOf(rows)));
      EXPECT_EQ(result.snapshot, Get(merged));
      EXPECT_FALSE(result.replayed);
    }
    const auto& got = *Get(merged)->statistics;
    const auto& want = *Get(trained)->statistics;
    for (size_t c = 0; c < 2; ++c) {
      EXPECT_NEAR(got.running_mean[c], want.running_mean[c], 1e-12 * (1 + std::abs(want.running_mean[c])));
      EXPECT_NEAR(got.running_var[c], want.running_var[c], 1e-12 * want.running_var[c]);
    }
    EXPECT_EQ(got.sample_count, want.sample_count);
    EXPECT_EQ(got.num_batches_tracked, 5);
    EXPECT_EQ(Get(merged)->version, 6);
  }
}

TEST_F(MergeMomentsTest, ChannelsHaveCountsOfTheirOwn) {
  MakeLayer("pooled", 3, "rl_observation");
  MakeLayer("cumulative", 3, "reference", [](LayerConfig& config) { config.averaging = Averaging::kCumulative; });
  for (const std::string name : {"pooled", "cumulative"}) {
    // Channel 0: {1, 3}, then {5}. Channel 1: nothing, then {2, 4, 6}. Channel 2: {7}, then nothing.
    NORMD_ASSERT_OK(Merge(name, {.count = {2, 0, 1}, .mean = {2, kNaN, 7}, .m2 = {2, -1, 0}}));
    NORMD_ASSERT_OK(Merge(name, {.count = {1, 3, 0}, .mean = {5, 4, kInf}, .m2 = {0, 8, kNaN}}));
    const layer::Statistics& got = *Get(name)->statistics;
    EXPECT_THAT(got.sample_count, ElementsAre(3, 3, 1));
    EXPECT_EQ(got.num_batches_tracked, 2);
    EXPECT_THAT(got.skipped_batches, ElementsAre(0, 1, 1));
    // Pooled: of all values. Cumulative: of the channel's batches.
    const bool pooled = name == "pooled";
    EXPECT_THAT(got.running_mean, ElementsAre(pooled ? 3 : 3.5, 4, 7));
    EXPECT_DOUBLE_EQ(got.running_var[0], pooled ? 8.0 / 3 : 0.5);
    EXPECT_DOUBLE_EQ(got.running_var[1], 8.0 / 3);
    EXPECT_EQ(got.running_var[2], 0);
  }
}

TEST_F(MergeMomentsTest, RepetitionsFoldNothing) {
  MakeLayer("bn", 1, "rl_observation");
  const Moments one{.count = {4}, .mean = {2}, .m2 = {8}};
  NORMD_ASSERT_OK_AND_ASSIGN(const auto first, Merge("bn", one, "actor-1", 5, "id-1"));
  EXPECT_FALSE(first.replayed);
  NORMD_ASSERT_OK_AND_ASSIGN(const auto other, Merge("bn", one, "actor-2", 1));
  EXPECT_FALSE(other.replayed);
  EXPECT_EQ(other.snapshot->version, 3);

  const struct {
    const char* name;
    std::string contributor;
    int64_t sequence;
    std::string request_id;
  } cases[] = {
      {"the same call", "actor-1", 5, "id-1"},
      {"the same sequence, after the server forgot the id", "actor-1", 5, "id-2"},
      {"the same sequence without an id", "actor-1", 5, ""},
      {"an earlier sequence", "actor-1", 4, ""},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.name);
    NORMD_ASSERT_OK_AND_ASSIGN(const auto again, Merge("bn", one, c.contributor, c.sequence, c.request_id));
    EXPECT_TRUE(again.replayed);
    EXPECT_EQ(again.snapshot, Get("bn"));
    EXPECT_EQ(again.snapshot->version, 3);
    EXPECT_THAT(again.snapshot->statistics->sample_count, ElementsAre(8));
  }
  EXPECT_EQ(Get("bn")->contributors->LastSequence("actor-1"), 5);
  EXPECT_EQ(Get("bn")->contributors->LastSequence("actor-2"), 1);
  EXPECT_THAT(Merge("bn", one, "actor-1", 6, "id-1"), StatusIs(StatusCode::kInvalidArgument));

  // A reset must not let a late retry in.
  NORMD_ASSERT_OK(registry_.ResetStatistics("bn", 0, ""));
  NORMD_ASSERT_OK_AND_ASSIGN(const auto late, Merge("bn", one, "actor-1", 5));
  EXPECT_TRUE(late.replayed);
  EXPECT_THAT(late.snapshot->statistics->sample_count, ElementsAre(0));
  NORMD_ASSERT_OK_AND_ASSIGN(const auto next, Merge("bn", one, "actor-1", 6));
  EXPECT_FALSE(next.replayed);
}

TEST_F(MergeMomentsTest, ThreadsThatRepeatThemselvesAreCountedOnce) {
  constexpr size_t kActors = 8;
  constexpr size_t kMerges = 50;
  MakeLayer("bn", 2, "rl_observation");
  const Rows all = SomeRows(kActors * kMerges, 2);
  std::vector<std::thread> actors;
  actors.reserve(kActors);
  for (size_t a = 0; a < kActors; ++a) {
    actors.emplace_back([&, a] {
      for (size_t i = 0; i < kMerges; ++i) {
        const size_t row = a * kMerges + i;
        const Moments moments = MomentsOf(all.Slice(row, row + 1));
        for (int attempt = 0; attempt < 2; ++attempt) {
          const auto result = Merge("bn", moments, "actor-" + std::to_string(a), static_cast<int64_t>(i) + 1);
          ASSERT_THAT(result, IsOk());
          EXPECT_EQ(result->replayed, attempt == 1);
        }
      }
    });
  }
  for (std::thread& actor : actors) actor.join();
  ExpectStatistics("bn", all, 0);
  EXPECT_EQ(Get("bn")->version, 1 + kActors * kMerges);
}

TEST_F(MergeMomentsTest, KnowsAtMostTenThousandContributors) {
  // As if all but one had contributed; so many merges would take minutes under ThreadSanitizer.
  std::vector<std::pair<std::string, int64_t>> known;
  for (int i = 10'001; i < 20'000; ++i) known.emplace_back("actor-" + std::to_string(i), 1);
  auto layer = std::make_shared<layer::LayerSnapshot>(*MakeLayer("bn", 1, "rl_observation"));
  layer->contributors = std::make_shared<const layer::Contributors>(layer::Contributors::FromSorted(known));
  NORMD_ASSERT_OK(store_.Write({{.put = layer}}));
  LayerRegistry restarted({}, clock_, &store_);
  NORMD_ASSERT_OK(restarted.Load());

  const Moments one{.count = {1}, .mean = {2}, .m2 = {0}};
  const auto merge = [&](const std::string& contributor, int64_t sequence) {
    return MergeMoments(restarted, {"bn", one, contributor, sequence, ""}, control_);
  };
  NORMD_ASSERT_OK(merge("the last", 1));
  const auto full = *restarted.Get("bn");
  EXPECT_THAT(merge("one more", 1),
              StatusIs(StatusCode::kResourceExhausted, "'one more' is new, and 10000 contributors"));
  EXPECT_EQ(*restarted.Get("bn"), full);
  NORMD_EXPECT_OK(merge("actor-19999", 2));
  NORMD_EXPECT_OK(merge("", 0));
}

TEST_F(MergeMomentsTest, NonFiniteValuesAreWhatTheyAreToATrainStep) {
  const Moments moments{.count = {2, 2}, .mean = {1, 2}, .m2 = {2, 2}, .non_finite_count = {0, 3}};
  const auto make = [&](const std::string& name, NonFinitePolicy policy) {
    MakeLayer(name, 2, "rl_observation", [&](LayerConfig& config) { config.non_finite_policy = policy; });
  };
  make("reject", NonFinitePolicy::kReject);
  EXPECT_THAT(
      Merge("reject", moments),
      StatusIs(StatusCode::kInvalidArgument,
               "layer 'reject': moments.non_finite_count[1] is 3, want finite values only (non_finite_policy is "
               "REJECT)"));
  EXPECT_EQ(Get("reject")->version, 1);

  make("skip", NonFinitePolicy::kSkipChannel);
  NORMD_ASSERT_OK_AND_ASSIGN(const auto skipped, Merge("skip", moments));
  EXPECT_THAT(skipped.snapshot->statistics->running_mean, ElementsAre(1, 0));
  EXPECT_THAT(skipped.snapshot->statistics->sample_count, ElementsAre(2, 0));

  make("propagate", NonFinitePolicy::kPropagate);
  NORMD_ASSERT_OK_AND_ASSIGN(const auto spread, Merge("propagate", moments));
  EXPECT_EQ(spread.snapshot->statistics->running_mean[0], 1);
  EXPECT_TRUE(std::isnan(spread.snapshot->statistics->running_mean[1]));
  EXPECT_THAT(spread.snapshot->statistics->sample_count, ElementsAre(2, 5));
}

TEST_F(MergeMomentsTest, BadInputIsNamedAndChangesNothing) {
  MakeLayer("bn", 2, "rl_observation");
  MakeLayer("torch", 2, "pytorch");
  MakeLayer("none", 2, "reference", [](LayerConfig& config) { config.track_running_stats = false; });
  const Moments good{.count = {4}, .mean = {1, 2}, .m2 = {3, 4}};
  const auto with = [&](const std::function<void(Moments&)>& change) {
    Moments moments = good;
    change(moments);
    return moments;
  };
  const struct {
    std::string layer;
    Moments moments;
    StatusCode code;
    std::string message;
    std::string contributor = {};
    int64_t sequence = 0;
  } cases[] = {
      {"nobody", good, StatusCode::kNotFound, "layer 'nobody': does not exist"},
      {"none", good, StatusCode::kFailedPrecondition, "no running statistics to merge into"},
      {"bn", {}, StatusCode::kInvalidArgument, "moments.count has 0 entries, want 1 or 2 (num_channels)"},
      {"bn", with([](Moments& m) {
         m.count = {1, 2, 3};
       }),
       StatusCode::kInvalidArgument, "moments.count has 3 entries"},
      {"bn", with([](Moments& m) { m.mean = {1}; }), StatusCode::kInvalidArgument,
       "layer 'bn': moments.mean has 1 entries, want 2 (num_channels)"},
      {"bn", with([](Moments& m) { m.m2 = {}; }), StatusCode::kInvalidArgument, "moments.m2 has 0 entries, want 2"},
      {"bn", with([](Moments& m) { m.min = {1}; }), StatusCode::kInvalidArgument,
       "moments.min has 1 entries, want 2 (num_channels) or none"},
      {"bn", with([](Moments& m) { m.max = {1}; }), StatusCode::kInvalidArgument, "moments.max has 1 entries"},
      {"bn", with([](Moments& m) { m.non_finite_count = {1}; }), StatusCode::kInvalidArgument,
       "moments.non_finite_count has 1 entries"},
      {"bn", with([](Moments& m) {
         m.non_finite_count = {0, -1};
       }),
       StatusCode::kInvalidArgument, "moments.non_finite_count[1] is -1, want 0 or more"},
      {"bn", with([](Moments& m) { m.count = {-1}; }), StatusCode::kInvalidArgument,
       "moments.count is -1 for channel 0, want 0 to 9007199254740992"},
      {"bn", with([](Moments& m) {
         m.count = {1, (int64_t{1} << 53) + 1};
       }),
       StatusCode::kInvalidArgument, "moments.count is 9007199254740993 for channel 1"},
      {"bn", with([](Moments& m) { m.count = {0}; }), StatusCode::kInvalidArgument,
       "moments.count is 0 for every channel, want at least one value"},
      {"bn", with([](Moments& m) { m.mean[1] = kNaN; }), StatusCode::kInvalidArgument,
       "moments.mean[1] is nan, want a finite number"},
      {"bn", with([](Moments& m) { m.m2[0] = -1; }), StatusCode::kInvalidArgument,
       "moments.m2[0] is -1, want a finite number >= 0"},
      {"bn", with([](Moments& m) { m.m2[0] = kInf; }), StatusCode::kInvalidArgument, "moments.m2[0] is inf"},
      {"bn", with([](Moments& m) {
         m.min = {0, 3};
       }),
       StatusCode::kInvalidArgument, "moments.min[1] is 3, want at most the mean, 2"},
      {"bn", with([](Moments& m) {
         m.max = {0, 3};
       }),
       StatusCode::kInvalidArgument, "moments.max[0] is 0, want at least the mean, 1"},
      {"bn", with([](Moments& m) {
         m.min = {-kInf, 0};
       }),
       StatusCode::kInvalidArgument, "moments.min[0] is -inf"},
      {"bn", with([](Moments& m) {
         m.max = {kNaN, 9};
       }),
       StatusCode::kInvalidArgument, "moments.max[0] is nan"},
      {"torch", with([](Moments& m) {
         m.count = {2, 1};
       }),
       StatusCode::kInvalidArgument,
       "moments.count is 1 for channel 1, want at least 2: the sample variance divides by n - 1"},
      {"bn", good, StatusCode::kInvalidArgument, "sequence of contributor 'a' is 0, want above 0", "a", 0},
      {"bn", good, StatusCode::kInvalidArgument, "sequence is 3 without a contributor, want both or neither", "", 3},
      {"bn", good, StatusCode::kInvalidArgument, "has 129 bytes, want at most 128", std::string(129, 'a'), 1},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.message);
    EXPECT_THAT(Merge(c.layer, c.moments, c.contributor, c.sequence), StatusIs(c.code, c.message));
  }
  for (const std::string name : {"bn", "torch", "none"}) EXPECT_EQ(Get(name)->version, 1);
}

TEST_F(MergeMomentsTest, MeansMayRoundOutOfTheirRange) {
  MakeLayer("bn", 1, "rl_observation");
  // Three times 0.1 and divided by three.
  NORMD_EXPECT_OK(Merge("bn", {.count = {3}, .mean = {0.10000000000000002}, .m2 = {0}, .min = {0.1}, .max = {0.1}}));
}

TEST_F(MergeMomentsTest, RefusesWhatOverflowsTheStatistics) {
  MakeLayer("bn", 1, "rl_observation");
  NORMD_ASSERT_OK(Merge("bn", {.count = {1}, .mean = {-1e308}, .m2 = {0}}));
  const auto before = Get("bn");
  EXPECT_THAT(Merge("bn", {.count = {1}, .mean = {1e308}, .m2 = {0}}, "a", 1),
              StatusIs(StatusCode::kInvalidArgument, "would make running_mean[0]"));
  EXPECT_EQ(Get("bn"), before);
}

TEST_F(MergeMomentsTest, ACancelledCallChangesNothing) {
  MakeLayer("bn", 1, "rl_observation");
  control_.check_alive = [] { return absl::CancelledError("gone"); };
  EXPECT_THAT(Merge("bn", {.count = {1}, .mean = {1}, .m2 = {0}}, "a", 1), StatusIs(StatusCode::kCancelled));
  EXPECT_EQ(Get("bn")->version, 1);
  EXPECT_EQ(Get("bn")->contributors->size(), 0);
}

}  // namespace
}  // namespace normd::registry
