#include "server/layer/content_hash.h"

#include <gtest/gtest.h>

#include <functional>
#include <set>
#include <string>

namespace normd::layer {
namespace {

struct Layer {
  LayerConfig config;
  Statistics statistics;
  Affine affine;

  std::string Hash() const { return ContentHash(config, statistics, affine); }
};

Layer LayerOfTwoChannels() {
  Layer layer;
  layer.config.num_channels = 2;
  layer.statistics.running_mean = {0.5, -1.25};
  layer.statistics.running_var = {2, 3};
  layer.statistics.sample_count = {8, 8};
  layer.affine.gamma = {1, -1};
  layer.affine.beta = {0, 7};
  return layer;
}

// The wanted digests come from Python: hashlib.sha256(b"normd.v1" + struct.pack("<qddBB", num_channels, eps, clip,
// track_running_stats, affine) + struct.pack("<2d", *running_mean) + ...).hexdigest().
TEST(ContentHashTest, IsTheSha256OfTheDocumentedBytes) {
  Layer layer = LayerOfTwoChannels();
  EXPECT_EQ(layer.Hash(), "eec36917e7eb0c55680ae8158ac0e777ab39ec563b1d9c27581ce2e7be8f042b");

  layer.config.clip = 10;
  layer.config.affine = false;
  EXPECT_EQ(layer.Hash(), "563f6dacc240891c5cabe0ffa48109985cae7934e7d9252f93ba35907470f0fc");

  layer = LayerOfTwoChannels();
  layer.config.track_running_stats = false;
  EXPECT_EQ(layer.Hash(), "1ac1eb57545b1532588f6894d78960e1b19e1450546d76107a4cde344b94b944");

  layer.config.num_channels = 3;
  layer.config.eps = 1e-3;
  layer.config.affine = false;
  EXPECT_EQ(layer.Hash(), "ba7e7f913baf774ccc735c12c1f9a4ed4bdfe3331f2ed8ba667aa7c8315476c0");
}

TEST(ContentHashTest, DependsOnWhatInferenceDependsOn) {
  const std::function<void(Layer&)> changes[] = {
      [](Layer&) {},
      [](Layer& l) { l.config.eps = 2e-5; },
      [](Layer& l) { l.config.clip = 3; },
      [](Layer& l) { l.statistics.running_mean[1] = 0; },
      [](Layer& l) { l.statistics.running_var[0] = 2.0000000000000004; },
      [](Layer& l) { l.affine.gamma[0] = 2; },
      [](Layer& l) { l.affine.beta[1] = 8; },
  };
  std::set<std::string> hashes;
  for (const auto& change : changes) {
    Layer layer = LayerOfTwoChannels();
    change(layer);
    EXPECT_TRUE(hashes.insert(layer.Hash()).second);
  }
}

TEST(ContentHashTest, DoesNotDependOnTheRest) {
  const std::string hash = LayerOfTwoChannels().Hash();
  const std::function<void(Layer&)> changes[] = {
      [](Layer& l) { l.statistics.num_batches_tracked = 9; },
      [](Layer& l) { l.statistics.sample_count[0] = 9; },
      [](Layer& l) {
        l.statistics.skipped_batches = {1, 0};
      },
      [](Layer& l) { l.config.update_weight = 0.5; },
      [](Layer& l) { l.config.averaging = Averaging::kPooled; },
      [](Layer& l) { l.config.non_finite_policy = NonFinitePolicy::kPropagate; },
  };
  for (const auto& change : changes) {
    Layer layer = LayerOfTwoChannels();
    change(layer);
    EXPECT_EQ(layer.Hash(), hash);
  }
}

}  // namespace
}  // namespace normd::layer
