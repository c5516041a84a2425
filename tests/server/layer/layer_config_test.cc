#include "server/layer/layer_config.h"

#include <functional>
#include <string>

#include "tests/non_finite.h"
#include "tests/status_matchers.h"

namespace normd::layer {
namespace {

using absl::StatusCode;
using tests::IsOk;
using tests::kInf;
using tests::kNaN;
using tests::StatusIs;

constexpr int64_t kMaxChannels = 1000;

LayerConfig Valid() {
  LayerConfig config;
  config.num_channels = 3;
  return config;
}

TEST(LayerConfigTest, TakesWhatIsInRange) {
  const struct {
    std::string name;
    std::function<void(LayerConfig&)> change;
  } cases[] = {
      {"defaults", [](LayerConfig&) {}},
      {"most channels", [](LayerConfig& c) { c.num_channels = kMaxChannels; }},
      {"update_weight 0", [](LayerConfig& c) { c.update_weight = 0; }},
      {"update_weight 1", [](LayerConfig& c) { c.update_weight = 1; }},
      {"tiny eps", [](LayerConfig& c) { c.eps = 1e-300; }},
      {"clip", [](LayerConfig& c) { c.clip = 0.5; }},
      {"update_weight that means nothing",
       [](LayerConfig& c) {
         c.averaging = Averaging::kPooled;
         c.update_weight = 7;
       }},
      {"untracked", [](LayerConfig& c) { c.track_running_stats = false; }},
  };
  for (const auto& c : cases) {
    LayerConfig config = Valid();
    c.change(config);
    EXPECT_THAT(ValidateConfig(config, kMaxChannels), IsOk()) << c.name;
  }
}

TEST(LayerConfigTest, NamesWhatIsOutOfRange) {
  const struct {
    std::function<void(LayerConfig&)> change;
    std::string message;
  } cases[] = {
      {[](LayerConfig& c) { c.num_channels = 0; }, "num_channels is 0, want 1 to 1000"},
      {[](LayerConfig& c) { c.num_channels = -5; }, "num_channels is -5, want 1 to 1000"},
      {[](LayerConfig& c) { c.num_channels = 1001; }, "num_channels is 1001, want 1 to 1000"},
      {[](LayerConfig& c) { c.eps = 0; }, "eps is 0, want a finite number > 0"},
      {[](LayerConfig& c) { c.eps = -1e-5; }, "eps is -1e-05, want a finite number > 0"},
      {[](LayerConfig& c) { c.eps = kNaN; }, "eps is nan"},
      {[](LayerConfig& c) { c.eps = kInf; }, "eps is inf"},
      {[](LayerConfig& c) { c.update_weight = -0.1; }, "update_weight is -0.1, want a number in [0, 1]"},
      {[](LayerConfig& c) { c.update_weight = 1.5; }, "update_weight is 1.5, want a number in [0, 1]"},
      {[](LayerConfig& c) { c.update_weight = kNaN; }, "update_weight is nan"},
      {[](LayerConfig& c) {
         c.averaging = Averaging::kExponentialDebiased;
         c.update_weight = 0;
       },
       "update_weight is 0, want > 0 with averaging EXPONENTIAL_DEBIASED"},
      {[](LayerConfig& c) {
         c.track_running_stats = false;
         c.normalize_training_with = TrainingStatistics::kRunningBeforeUpdate;
       },
       "normalize_training_with names the running statistics, want BATCH"},
      {[](LayerConfig& c) { c.clip = 0; }, "clip is 0, want a finite number > 0, or none"},
      {[](LayerConfig& c) { c.clip = kInf; }, "clip is inf"},
      {[](LayerConfig& c) { c.clip = kNaN; }, "clip is nan"},
  };
  for (const auto& c : cases) {
    LayerConfig config = Valid();
    c.change(config);
    EXPECT_THAT(ValidateConfig(config, kMaxChannels), StatusIs(StatusCode::kInvalidArgument, c.message));
  }
}

}  // namespace
}  // namespace normd::layer
