#include "server/registry/layer_registry.h"

#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "tests/server/registry/registry_fixture.h"

namespace normd::registry {
namespace {

using absl::StatusCode;
using ::testing::ElementsAre;
using tests::IsOk;
using tests::StatusIs;

using LayerRegistryTest = tests::RegistryTest;

layer::StateUpdate State(double mean, double var, double count, double gamma, double beta) {
  layer::StateUpdate update;
  update.running_mean = {mean};
  update.running_var = {var};
  update.sample_count = {count};
  update.gamma = {gamma};
  update.beta = {beta};
  return update;
}

TEST_F(LayerRegistryTest, CreatesALayerAtVersionOne) {
  const auto layer = MakeLayer("net.bn1", 2, "keras");
  EXPECT_EQ(layer->name, "net.bn1");
  EXPECT_EQ(layer->preset, "keras");
  EXPECT_EQ(layer->version, 1);
  EXPECT_EQ(layer->config->eps, 1e-3);
  EXPECT_EQ(layer->create_time, clock_.Now());
  EXPECT_EQ(layer->update_time, clock_.Now());
  EXPECT_EQ(layer->uid.size(), 32U);
  EXPECT_EQ(layer->content_hash.size(), 64U);
  EXPECT_THAT(layer->statistics->running_var, ElementsAre(1, 1));
  EXPECT_THAT(layer->affine->gamma, ElementsAre(1, 1));
  EXPECT_EQ(Get("net.bn1"), layer);
  EXPECT_EQ(registry_.size(), 1);
}

TEST_F(LayerRegistryTest, CreatesWithAStartingState) {
  CreateLayerSpec spec = Spec("a", 1);
  spec.initial_state = State(3, 4, 5, 6, 7);
  spec.initial_state.num_batches_tracked = 8;
  NORMD_ASSERT_OK_AND_ASSIGN(auto layer, registry_.Create(spec));
  EXPECT_EQ(layer->version, 1);
  EXPECT_EQ(layer->statistics->running_mean[0], 3);
  EXPECT_EQ(layer->statistics->num_batches_tracked, 8);
  EXPECT_EQ(layer->affine->beta[0], 7);
}

TEST_F(LayerRegistryTest, RefusesBadCreationsAndKeepsNothing) {
  MakeLayer("taken", 1);
  const struct {
    std::string name;
    std::function<void(CreateLayerSpec&)> change;
    StatusCode code;
    std::string message;
  } cases[] = {
      {"bad name", [](CreateLayerSpec& s) { s.name = "a..b"; }, StatusCode::kInvalidArgument, "layer name 'a..b'"},
      {"duplicate", [](CreateLayerSpec& s) { s.name = "taken"; }, StatusCode::kAlreadyExists,
       "layer 'taken': exists already"},
      {"no channels", [](CreateLayerSpec& s) { s.config.num_channels = 0; }, StatusCode::kInvalidArgument,
       "layer 'new': num_channels is 0, want 1 to 4096"},
      {"too many channels", [](CreateLayerSpec& s) { s.config.num_channels = 4097; }, StatusCode::kInvalidArgument,
       "layer 'new': num_channels is 4097, want 1 to 4096"},
      {"eps 0", [](CreateLayerSpec& s) { s.config.eps = 0; }, StatusCode::kInvalidArgument, "layer 'new': eps is 0"},
      {"update_weight", [](CreateLayerSpec& s) { s.config.update_weight = 1.1; }, StatusCode::kInvalidArgument,
       "layer 'new': update_weight is 1.1"},
      {"state",
       [](CreateLayerSpec& s) {
         s.initial_state.running_mean = {1, 2};
       },
       StatusCode::kInvalidArgument, "layer 'new': running_mean is given without running_var"},
      {"request_id", [](CreateLayerSpec& s) { s.request_id.assign(129, 'r'); }, StatusCode::kInvalidArgument,
       "layer 'new': request_id"},
  };
  for (const auto& c : cases) {
    CreateLayerSpec spec = Spec("new", 1);
    c.change(spec);
    EXPECT_THAT(registry_.Create(spec), StatusIs(c.code, c.message)) << c.name;
    EXPECT_EQ(registry_.size(), 1) << c.name;
  }
}

TEST_F(LayerRegistryTest, HoldsNoMoreThanItsLimit) {
  LayerRegistry small({.max_layers = 2, .requests = {}, .versions = {}}, clock_, &store_);
  EXPECT_THAT(small.Create(Spec("a", 1)), IsOk());
  EXPECT_THAT(small.Create(Spec("b", 1)), IsOk());
  EXPECT_THAT(small.Create(Spec("c", 1)), StatusIs(StatusCode::kResourceExhausted, "the server holds 2 layers"));
  EXPECT_THAT(small.Delete("a", "", ""), IsOk());
  EXPECT_THAT(small.Create(Spec("c", 1)), IsOk());
}

TEST_F(LayerRegistryTest, AnUnknownNameIsNotFoundByEveryCall) {
  const auto not_found = StatusIs(StatusCode::kNotFound, "layer 'nobody': does not exist");
  EXPECT_THAT(registry_.Get("nobody"), not_found);
  EXPECT_THAT(registry_.Find("nobody"), not_found);
  EXPECT_THAT(registry_.Update("nobody", {.values = {}, .fields = {"eps"}}, "", ""), not_found);
  EXPECT_THAT(registry_.Delete("nobody", "", ""), not_found);
  EXPECT_THAT(registry_.ResetStatistics("nobody", 0, ""), not_found);
  EXPECT_THAT(registry_.SetState("nobody", State(0, 1, 0, 1, 0), 0, ""), not_found);
  EXPECT_THAT(registry_.Get("no body"), StatusIs(StatusCode::kInvalidArgument, "contains ' '"));
}

TEST_F(LayerRegistryTest, ListsByPrefixInByteOrderAndInPages) {
  for (int i = 0; i < 5000; ++i) MakeLayer(absl::StrCat("model", i % 5, ".bn", absl::Dec(i, absl::kZeroPad4)), 1);
  MakeLayer("model", 1);
  MakeLayer("zzz", 1);
  EXPECT_EQ(registry_.size(), 5002);

  const struct {
    std::string prefix;
    size_t count;
  } cases[] = {{"", 5002}, {"model", 5001}, {"model3.", 1000}, {"model3.bn0", 200}, {"zzz", 1}, {"zzzz", 0}, {"-", 0}};
  for (const auto& c : cases) {
    std::string after;
    std::vector<std::string> names;
    do {
      const ListPage page = registry_.List(c.prefix, after, 333);
      EXPECT_LE(page.layers.size(), 333U);
      for (const auto& layer : page.layers) names.push_back(layer->name);
      after = page.last_name;
      if (!after.empty()) {
        EXPECT_EQ(after, names.back());
      }
    } while (!after.empty());
    EXPECT_EQ(names.size(), c.count) << c.prefix;
    EXPECT_TRUE(std::is_sorted(names.begin(), names.end()));
    EXPECT_EQ(std::set<std::string>(names.begin(), names.end()).size(), names.size());
    for (const std::string& name : names) EXPECT_EQ(name.rfind(c.prefix, 0), 0U);
  }
  // A page that ends with the last layer says so.
  EXPECT_EQ(registry_.List("model3.", "", 1000).last_name, "");
  // A page goes on where it stopped although that layer is gone.
  EXPECT_THAT(registry_.Delete("model3.bn0008", "", ""), IsOk());
  EXPECT_EQ(registry_.List("model3.", "model3.bn0008", 1).layers[0]->name, "model3.bn0013");
}

TEST_F(LayerRegistryTest, UpdatesSettingsAndTheirEtag) {
  const auto before = MakeLayer("a", 1);
  clock_.Advance(absl::Seconds(1));
  ConfigUpdate update;
  update.values.eps = 0.5;
  update.values.update_weight = 0.25;
  update.values.clip = 3;
  update.values.normalize_training_with = layer::TrainingStatistics::kRunningAfterUpdate;
  update.values.non_finite_policy = layer::NonFinitePolicy::kSkipChannel;
  update.fields = {"eps", "clip", "update_weight", "normalize_training_with", "non_finite_policy"};
  NORMD_ASSERT_OK_AND_ASSIGN(auto after, registry_.Update("a", update, before->Etag(), ""));
  layer::LayerConfig want = *before->config;
  want.eps = 0.5;
  want.update_weight = 0.25;
  want.clip = 3;
  want.normalize_training_with = layer::TrainingStatistics::kRunningAfterUpdate;
  want.non_finite_policy = layer::NonFinitePolicy::kSkipChannel;
  EXPECT_EQ(*after->config, want);
  EXPECT_EQ(after->version, 2);
  EXPECT_EQ(after->config_version, 2);
  EXPECT_NE(after->Etag(), before->Etag());
  EXPECT_NE(after->content_hash, before->content_hash);
  EXPECT_EQ(after->update_time, clock_.Now());
  EXPECT_NE(after->create_time, clock_.Now());

  // Only what the mask names; an absent clip in the mask takes the bound away.
  update = ConfigUpdate();
  update.fields = {"clip"};
  NORMD_ASSERT_OK_AND_ASSIGN(after, registry_.Update("a", update, "", ""));
  EXPECT_EQ(after->config->clip, std::nullopt);
  EXPECT_EQ(after->config->eps, 0.5);

  // The same values again are no change.
  NORMD_ASSERT_OK_AND_ASSIGN(const auto same, registry_.Update("a", update, "", ""));
  EXPECT_EQ(same, after);
}

TEST_F(LayerRegistryTest, RefusesBadUpdatesAndChangesNothing) {
  MakeLayer("a", 1);
  MakeLayer("pooled", 1, "standard_scaler");
  MakeLayer("debiased", 1, "haiku");
  MakeLayer("untracked", 1, "reference", [](layer::LayerConfig& c) { c.track_running_stats = false; });
  const std::string allowed = "want some of eps, update_weight, normalize_training_with, clip, non_finite_policy";
  layer::LayerConfig values;
  values.eps = -1;
  values.update_weight = 0;
  values.normalize_training_with = layer::TrainingStatistics::kRunningBeforeUpdate;
  values.clip = -1;
  const struct {
    std::string name;
    std::vector<std::string> fields;
    StatusCode code;
    std::string message;
  } cases[] = {
      {"a", {}, StatusCode::kInvalidArgument, "layer 'a': update_mask is empty, " + allowed},
      {"a", {"epsilon"}, StatusCode::kInvalidArgument, "layer 'a': update_mask names 'epsilon', " + allowed},
      {"a", {"*"}, StatusCode::kInvalidArgument, allowed},
      {"a", {"update_weight", "num_channels"}, StatusCode::kFailedPrecondition, "num_channels is immutable"},
      {"a", {"averaging"}, StatusCode::kFailedPrecondition, "averaging is immutable; create a new layer"},
      {"a", {"running_var_estimator"}, StatusCode::kFailedPrecondition, "running_var_estimator is immutable"},
      {"a", {"affine"}, StatusCode::kFailedPrecondition, "affine is immutable"},
      {"a", {"track_running_stats"}, StatusCode::kFailedPrecondition, "track_running_stats is immutable"},
      {"a", {"update_weight", "eps"}, StatusCode::kInvalidArgument, "layer 'a': eps is -1"},
      {"a", {"clip"}, StatusCode::kInvalidArgument, "layer 'a': clip is -1"},
      {"pooled", {"update_weight"}, StatusCode::kInvalidArgument, "layer 'pooled': update_weight is given, want none"},
      {"debiased", {"update_weight"}, StatusCode::kInvalidArgument, "layer 'debiased': update_weight is 0, want > 0"},
      {"untracked", {"normalize_training_with"}, StatusCode::kInvalidArgument, "layer 'untracked': normalize_training"},
  };
  for (const auto& c : cases) {
    const auto before = Get(c.name);
    EXPECT_THAT(registry_.Update(c.name, {.values = values, .fields = c.fields}, "", ""), StatusIs(c.code, c.message));
    EXPECT_EQ(Get(c.name), before);
  }
}

TEST_F(LayerRegistryTest, AStaleEtagIsAborted) {
  const auto old = MakeLayer("a", 1);
  NORMD_ASSERT_OK(registry_.SetState("a", State(1, 1, 1, 1, 1), 0, ""));
  ConfigUpdate update{.values = {.eps = 0.5}, .fields = {"eps"}};
  // State does not make it stale, settings do.
  NORMD_ASSERT_OK_AND_ASSIGN(const auto updated, registry_.Update("a", update, old->Etag(), ""));
  update.values.eps = 0.25;
  EXPECT_THAT(registry_.Update("a", update, old->Etag(), ""),
              StatusIs(StatusCode::kAborted, "layer 'a': has etag '" + updated->Etag() + "', got '" + old->Etag()));
  EXPECT_THAT(registry_.Delete("a", old->Etag(), ""), StatusIs(StatusCode::kAborted));
  EXPECT_EQ(Get("a"), updated);
  EXPECT_THAT(registry_.Delete("a", updated->Etag(), ""), IsOk());
  // A later layer of that name is another one.
  const auto reborn = MakeLayer("a", 1);
  EXPECT_NE(reborn->uid, old->uid);
  EXPECT_THAT(registry_.Delete("a", old->Etag(), ""), StatusIs(StatusCode::kAborted));
}

TEST_F(LayerRegistryTest, SetsAndResetsState) {
  const auto before = MakeLayer("a", 1);
  layer::StateUpdate update = State(3, 4, 5, 6, 7);
  update.num_batches_tracked = 2;
  update.skipped_batches = {1};
  NORMD_ASSERT_OK_AND_ASSIGN(auto set, registry_.SetState("a", update, 1, ""));
  EXPECT_EQ(set->version, 2);
  EXPECT_EQ(set->config_version, 1);
  EXPECT_THAT(set->statistics->running_mean, ElementsAre(3));
  EXPECT_THAT(set->statistics->sample_count, ElementsAre(5));
  EXPECT_THAT(set->statistics->skipped_batches, ElementsAre(1));
  EXPECT_EQ(set->statistics->num_batches_tracked, 2);

  // Counts that are not given start anew; gamma and beta that are not given stay.
  update = layer::StateUpdate();
  update.running_mean = {8};
  update.running_var = {9};
  NORMD_ASSERT_OK_AND_ASSIGN(set, registry_.SetState("a", update, 0, ""));
  EXPECT_THAT(set->statistics->sample_count, ElementsAre(0));
  EXPECT_EQ(set->statistics->num_batches_tracked, 0);
  EXPECT_TRUE(set->statistics->skipped_batches.empty());
  EXPECT_THAT(set->affine->gamma, ElementsAre(6));

  NORMD_ASSERT_OK_AND_ASSIGN(const auto reset, registry_.ResetStatistics("a", 3, ""));
  EXPECT_EQ(reset->version, 4);
  EXPECT_EQ(*reset->statistics, *before->statistics);
  EXPECT_THAT(reset->affine->beta, ElementsAre(7));
}

TEST_F(LayerRegistryTest, RefusesBadStateAndStaleVersions) {
  const auto before = MakeLayer("a", 1);
  EXPECT_THAT(registry_.SetState("a", State(1, -1, 0, 1, 0), 0, ""),
              StatusIs(StatusCode::kInvalidArgument, "layer 'a': running_var[0] is -1"));
  EXPECT_THAT(registry_.SetState("a", layer::StateUpdate(), 0, ""),
              StatusIs(StatusCode::kInvalidArgument, "layer 'a': the state is empty"));
  EXPECT_THAT(registry_.SetState("a", State(1, 1, 0, 1, 0), 2, ""),
              StatusIs(StatusCode::kAborted, "layer 'a': is at version 1, want 2"));
  EXPECT_THAT(registry_.ResetStatistics("a", 7, ""), StatusIs(StatusCode::kAborted));
  EXPECT_THAT(registry_.ResetStatistics("a", -7, ""),
              StatusIs(StatusCode::kInvalidArgument, "layer 'a': expected_version is -7, want >= 0"));
  EXPECT_EQ(Get("a"), before);
}

TEST_F(LayerRegistryTest, ResettingWhatIsNotTrackedIsNoChange) {
  const auto before = MakeLayer("a", 1, "reference", [](layer::LayerConfig& c) { c.track_running_stats = false; });
  NORMD_ASSERT_OK_AND_ASSIGN(const auto after, registry_.ResetStatistics("a", 0, ""));
  EXPECT_EQ(after, before);
}

TEST_F(LayerRegistryTest, AReplayedMutationIsDoneOnce) {
  MakeLayer("a", 1);
  NORMD_ASSERT_OK_AND_ASSIGN(auto first, registry_.SetState("a", State(3, 4, 5, 6, 7), 1, "set"));
  // The version has moved on, and still the retry is recognised.
  NORMD_ASSERT_OK_AND_ASSIGN(auto replay, registry_.SetState("a", State(3, 4, 5, 6, 7), 1, "set"));
  EXPECT_EQ(replay, first);
  EXPECT_THAT(registry_.SetState("a", State(3, 4, 5, 6, 8), 1, "set"),
              StatusIs(StatusCode::kInvalidArgument, "layer 'a': request_id 'set' was used before"));
  EXPECT_THAT(registry_.ResetStatistics("a", 0, "set"), StatusIs(StatusCode::kInvalidArgument, "request_id 'set'"));

  const ConfigUpdate update{.values = {.eps = 0.5}, .fields = {"eps"}};
  NORMD_ASSERT_OK_AND_ASSIGN(first, registry_.Update("a", update, Get("a")->Etag(), "update"));
  NORMD_ASSERT_OK_AND_ASSIGN(replay, registry_.Update("a", update, replay->Etag(), "update"));
  EXPECT_EQ(replay, first);
  NORMD_ASSERT_OK_AND_ASSIGN(first, registry_.ResetStatistics("a", 0, "reset"));
  NORMD_ASSERT_OK_AND_ASSIGN(replay, registry_.ResetStatistics("a", 0, "reset"));
  EXPECT_EQ(replay, first);
  EXPECT_EQ(first->version, 4);
}

TEST_F(LayerRegistryTest, AReplayedCreateReturnsTheLayerWhileItLives) {
  CreateLayerSpec spec = Spec("a", 1);
  spec.request_id = "create";
  NORMD_ASSERT_OK_AND_ASSIGN(const auto first, registry_.Create(spec));
  NORMD_ASSERT_OK_AND_ASSIGN(auto replay, registry_.Create(spec));
  EXPECT_EQ(replay, first);
  CreateLayerSpec other = spec;
  other.config.eps = 0.5;
  EXPECT_THAT(registry_.Create(other), StatusIs(StatusCode::kInvalidArgument, "request_id 'create'"));

  EXPECT_THAT(registry_.Delete("a", "", "delete"), IsOk());
  EXPECT_THAT(registry_.Create(spec), StatusIs(StatusCode::kNotFound, "has been deleted since"));
  EXPECT_THAT(registry_.Delete("a", "", "delete"), IsOk());
  EXPECT_THAT(registry_.Delete("a", "", ""), StatusIs(StatusCode::kNotFound));
  // Neither is the next layer of that name the one that was created, nor does the replayed deletion touch it.
  MakeLayer("a", 1);
  EXPECT_THAT(registry_.Create(spec), StatusIs(StatusCode::kNotFound, "has been deleted since"));
  EXPECT_THAT(registry_.Delete("a", "", "delete"), IsOk());
  EXPECT_EQ(registry_.size(), 1);
  EXPECT_THAT(registry_.Delete("b", "", "delete"), StatusIs(StatusCode::kInvalidArgument, "request_id 'delete'"));
}

}  // namespace
}  // namespace normd::registry
