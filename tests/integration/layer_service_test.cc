// LayerService over the wire: every method's happy path, presets and overrides, pages, masks, etags, retries.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "tests/integration/test_server.h"

namespace normd::tests {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

using LayerStub = v1::LayerService::Stub;

class LayerServiceTest : public ::testing::Test {
 protected:
  TestServer server_;
  LayerStub& stub_ = server_.layers();
};

TEST_F(LayerServiceTest, CreateFillsInTheReferencePreset) {
  const v1::Layer layer = server_.Create("net.bn1", 3);
  EXPECT_EQ(layer.name(), "net.bn1");
  EXPECT_EQ(layer.preset(), "reference");
  EXPECT_EQ(layer.version(), 1);
  EXPECT_THAT(layer.uid(), SizeIs(32));
  EXPECT_THAT(layer.content_hash(), SizeIs(64));
  EXPECT_FALSE(layer.etag().empty());
  EXPECT_GT(layer.create_time().seconds(), 1'700'000'000);
  EXPECT_EQ(layer.create_time().seconds(), layer.update_time().seconds());
  EXPECT_FALSE(layer.has_state());
  const v1::LayerConfig& config = layer.config();
  EXPECT_EQ(config.num_channels(), 3);
  EXPECT_EQ(config.eps(), 1e-5);
  EXPECT_EQ(config.averaging(), v1::AVERAGING_EXPONENTIAL);
  EXPECT_EQ(config.update_weight(), 0.1);
  EXPECT_EQ(config.running_var_estimator(), v1::VARIANCE_ESTIMATOR_POPULATION);
  EXPECT_EQ(config.normalize_training_with(), v1::TRAINING_STATISTICS_BATCH);
  EXPECT_TRUE(config.has_affine() && config.affine());
  EXPECT_TRUE(config.has_track_running_stats() && config.track_running_stats());
  EXPECT_FALSE(config.has_clip());
  EXPECT_EQ(config.non_finite_policy(), v1::NON_FINITE_POLICY_REJECT);
}

TEST_F(LayerServiceTest, OverridesWinOverThePreset) {
  v1::CreateLayerRequest request;
  request.set_name("bn");
  request.set_preset("pytorch");
  v1::LayerConfig& config = *request.mutable_config();
  config.set_num_channels(2);
  config.set_eps(0.5);
  config.set_update_weight(0.0);  // Present, though it is the type's default.
  config.set_affine(false);
  config.set_clip(3);
  config.set_non_finite_policy(v1::NON_FINITE_POLICY_SKIP_CHANNEL);
  v1::CreateLayerResponse response;
  ASSERT_THAT(Call(stub_, &LayerStub::CreateLayer, request, &response), GrpcIsOk());
  const v1::LayerConfig& got = response.layer().config();
  EXPECT_EQ(response.layer().preset(), "pytorch");
  EXPECT_EQ(got.running_var_estimator(), v1::VARIANCE_ESTIMATOR_SAMPLE) << "from the preset";
  EXPECT_EQ(got.eps(), 0.5);
  EXPECT_EQ(got.update_weight(), 0.0);
  EXPECT_FALSE(got.affine());
  EXPECT_EQ(got.clip(), 3);
  EXPECT_EQ(got.non_finite_policy(), v1::NON_FINITE_POLICY_SKIP_CHANNEL);
}

TEST_F(LayerServiceTest, PooledLayersShowNoUpdateWeight) {
  const v1::Layer layer = server_.Create("obs", 2, "rl_observation");
  EXPECT_EQ(layer.config().averaging(), v1::AVERAGING_POOLED);
  EXPECT_FALSE(layer.config().has_update_weight());
  EXPECT_EQ(layer.config().clip(), 10);
}

TEST_F(LayerServiceTest, CreateTakesAStartingState) {
  v1::CreateLayerRequest request;
  request.set_name("bn");
  request.mutable_config()->set_num_channels(2);
  v1::LayerState& state = *request.mutable_initial_state();
  state.add_running_mean(1);
  state.add_running_mean(2);
  state.add_running_var(3);
  state.add_running_var(4);
  state.set_num_batches_tracked(5);
  v1::CreateLayerResponse response;
  ASSERT_THAT(Call(stub_, &LayerStub::CreateLayer, request, &response), GrpcIsOk());
  const v1::LayerState got = server_.Get("bn").state();
  EXPECT_THAT(got.running_mean(), ElementsAre(1, 2));
  EXPECT_THAT(got.running_var(), ElementsAre(3, 4));
  EXPECT_THAT(got.sample_count(), ElementsAre(0, 0));
  EXPECT_EQ(got.num_batches_tracked(), 5);
  EXPECT_THAT(got.gamma(), ElementsAre(1, 1));
  EXPECT_THAT(got.beta(), ElementsAre(0, 0));
}

TEST_F(LayerServiceTest, ARetriedCreationIsAnsweredWithTheSameLayer) {
  v1::CreateLayerRequest request;
  request.set_name("bn");
  request.mutable_config()->set_num_channels(2);
  request.set_request_id("create-1");
  v1::CreateLayerResponse first;
  v1::CreateLayerResponse second;
  ASSERT_THAT(Call(stub_, &LayerStub::CreateLayer, request, &first), GrpcIsOk());
  ASSERT_THAT(Call(stub_, &LayerStub::CreateLayer, request, &second), GrpcIsOk());
  EXPECT_EQ(first.layer().uid(), second.layer().uid());
}

TEST_F(LayerServiceTest, GetShowsTheStateOnlyWhenAskedAndNewer) {
  server_.Create("bn", 2);
  v1::GetLayerRequest request;
  request.set_name("bn");
  v1::GetLayerResponse response;
  ASSERT_THAT(Call(stub_, &LayerStub::GetLayer, request, &response), GrpcIsOk());
  EXPECT_FALSE(response.layer().has_state());
  EXPECT_FALSE(response.not_modified());

  request.set_view(v1::LAYER_VIEW_STATE);
  ASSERT_THAT(Call(stub_, &LayerStub::GetLayer, request, &response), GrpcIsOk());
  EXPECT_THAT(response.layer().state().running_var(), ElementsAre(1, 1));

  request.set_if_newer_than(1);
  ASSERT_THAT(Call(stub_, &LayerStub::GetLayer, request, &response), GrpcIsOk());
  EXPECT_TRUE(response.not_modified());
  EXPECT_FALSE(response.layer().has_state());
  EXPECT_EQ(response.layer().version(), 1);
}

TEST_F(LayerServiceTest, ListGoesThroughThePagesInByteOrder) {
  for (const char* name : {"b.2", "a", "b.10", "b.1", "c", "b"}) server_.Create(name, 1);
  v1::ListLayersRequest request;
  request.set_prefix("b");
  request.set_page_size(2);
  std::vector<std::string> names;
  int pages = 0;
  do {
    v1::ListLayersResponse response;
    ASSERT_THAT(Call(stub_, &LayerStub::ListLayers, request, &response), GrpcIsOk());
    EXPECT_LE(response.layers_size(), 2);
    for (const v1::Layer& layer : response.layers()) names.push_back(layer.name());
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty() && ++pages < 10);
  EXPECT_THAT(names, ElementsAre("b", "b.1", "b.10", "b.2"));
}

TEST_F(LayerServiceTest, AListOfLargeStatesFitsIntoAClientsDefaultLimit) {
  // 100 layers of 5 * 8 * 8192 bytes of state: 32 MiB in all, where a client takes 4.
  for (int i = 0; i < 100; ++i) server_.Create("bn" + std::to_string(100 + i), 8192);
  v1::ListLayersRequest request;
  request.set_view(v1::LAYER_VIEW_STATE);
  std::vector<std::string> names;
  do {
    v1::ListLayersResponse response;
    ASSERT_THAT(Call(stub_, &LayerStub::ListLayers, request, &response), GrpcIsOk());
    ASSERT_GT(response.layers_size(), 0);
    EXPECT_LT(response.ByteSizeLong(), 4U << 20);
    for (const v1::Layer& layer : response.layers()) names.push_back(layer.name());
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty());
  ASSERT_THAT(names, SizeIs(100));
  for (int i = 0; i < 100; ++i) EXPECT_EQ(names[static_cast<size_t>(i)], "bn" + std::to_string(100 + i));
}

TEST_F(LayerServiceTest, UpdateChangesTheNamedFieldsOnly) {
  const v1::Layer before = server_.Create("bn", 2, "rl_observation");
  v1::UpdateLayerRequest request;
  request.set_name("bn");
  request.mutable_config()->set_eps(0.25);
  request.mutable_config()->set_non_finite_policy(v1::NON_FINITE_POLICY_PROPAGATE);  // Not in the mask.
  request.mutable_update_mask()->add_paths("eps");
  request.mutable_update_mask()->add_paths("clip");  // Absent in config: removed.
  request.set_etag(before.etag());
  v1::UpdateLayerResponse response;
  ASSERT_THAT(Call(stub_, &LayerStub::UpdateLayer, request, &response), GrpcIsOk());
  EXPECT_EQ(response.layer().config().eps(), 0.25);
  EXPECT_FALSE(response.layer().config().has_clip());
  EXPECT_EQ(response.layer().config().non_finite_policy(), v1::NON_FINITE_POLICY_REJECT);
  EXPECT_EQ(response.layer().version(), 2);
  EXPECT_NE(response.layer().etag(), before.etag());
}

TEST_F(LayerServiceTest, SetStateThenResetThenDelete) {
  server_.Create("bn", 2);
  v1::SetStateRequest set;
  set.set_name("bn");
  for (const double value : {5.0, 6.0}) {
    set.mutable_state()->add_running_mean(value);
    set.mutable_state()->add_running_var(value);
    set.mutable_state()->add_gamma(value);
    set.mutable_state()->add_beta(-value);
  }
  set.set_expected_version(1);
  v1::SetStateResponse set_response;
  ASSERT_THAT(Call(stub_, &LayerStub::SetState, set, &set_response), GrpcIsOk());
  EXPECT_EQ(set_response.layer().version(), 2);
  EXPECT_THAT(server_.Get("bn").state().running_mean(), ElementsAre(5, 6));

  v1::ResetStatisticsRequest reset;
  reset.set_name("bn");
  v1::ResetStatisticsResponse reset_response;
  ASSERT_THAT(Call(stub_, &LayerStub::ResetStatistics, reset, &reset_response), GrpcIsOk());
  EXPECT_EQ(reset_response.layer().version(), 3);
  const v1::LayerState state = server_.Get("bn").state();
  EXPECT_THAT(state.running_mean(), Each(0));
  EXPECT_THAT(state.running_var(), Each(1));
  EXPECT_THAT(state.gamma(), ElementsAre(5, 6)) << "gamma and beta stay";
  EXPECT_THAT(state.beta(), ElementsAre(-5, -6));

  v1::DeleteLayerRequest remove;
  remove.set_name("bn");
  remove.set_etag(reset_response.layer().etag());
  v1::DeleteLayerResponse remove_response;
  ASSERT_THAT(Call(stub_, &LayerStub::DeleteLayer, remove, &remove_response), GrpcIsOk());
  v1::GetLayerRequest get;
  get.set_name("bn");
  v1::GetLayerResponse get_response;
  EXPECT_THAT(Call(stub_, &LayerStub::GetLayer, get, &get_response),
              GrpcStatusIs(grpc::NOT_FOUND, AllOf(HasSubstr("layer 'bn'"), HasSubstr("does not exist"))));
}

TEST_F(LayerServiceTest, TheLimitOnLayersHolds) {
  app::ServerOptions options = TestOptions();
  options.limits.max_layers = 2;
  options.limits.max_channels = 4;
  TestServer small(options);
  small.Create("a", 4);
  small.Create("b", 4);
  v1::CreateLayerRequest request;
  request.set_name("c");
  request.mutable_config()->set_num_channels(4);
  v1::CreateLayerResponse response;
  EXPECT_THAT(Call(small.layers(), &LayerStub::CreateLayer, request, &response),
              GrpcStatusIs(grpc::RESOURCE_EXHAUSTED, HasSubstr("2 layers")));
  request.mutable_config()->set_num_channels(5);
  EXPECT_THAT(Call(small.layers(), &LayerStub::CreateLayer, request, &response),
              GrpcStatusIs(grpc::INVALID_ARGUMENT, HasSubstr("num_channels is 5, want 1 to 4")));
}

}  // namespace
}  // namespace normd::tests
