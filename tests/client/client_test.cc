#include "normd/client.h"

#include <gmock/gmock.h>
#include <grpc/grpc.h>
#include <grpcpp/health_check_service_interface.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "normd/testing/fake_server.h"
#include "normd/version.h"
#include "tests/non_finite.h"

namespace normd {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using testing::FakeServer;
using ::testing::HasSubstr;
using tests::kInf;

void FillLayer(v1::Layer* layer) {
  layer->set_name("net.bn1");
  layer->set_uid("u");
  layer->set_preset("pytorch");
  layer->mutable_config()->set_num_channels(2);
  layer->mutable_config()->set_eps(1e-3);
  layer->mutable_config()->set_averaging(v1::AVERAGING_EXPONENTIAL);
  layer->mutable_config()->set_update_weight(0.25);
  layer->mutable_config()->set_running_var_estimator(v1::VARIANCE_ESTIMATOR_SAMPLE);
  layer->mutable_config()->set_normalize_training_with(v1::TRAINING_STATISTICS_BATCH);
  layer->mutable_config()->set_affine(true);
  layer->mutable_config()->set_track_running_stats(true);
  layer->mutable_config()->set_non_finite_policy(v1::NON_FINITE_POLICY_SKIP_CHANNEL);
  layer->mutable_state()->add_running_mean(0.5);
  layer->mutable_state()->add_running_mean(-0.5);
  layer->mutable_state()->set_num_batches_tracked(3);
  layer->set_version(9);
  layer->set_content_hash("ff");
  layer->set_etag("e1");
  layer->mutable_create_time()->set_seconds(1000);
  layer->mutable_update_time()->set_seconds(2000);
  layer->mutable_update_time()->set_nanos(500'000'000);
}

void ExpectLayer(const absl::StatusOr<Layer>& layer) {
  ASSERT_TRUE(layer.ok()) << layer.status();
  EXPECT_EQ(layer->name, "net.bn1");
  EXPECT_EQ(layer->uid, "u");
  EXPECT_EQ(layer->preset, "pytorch");
  EXPECT_EQ(layer->config.num_channels, 2);
  EXPECT_EQ(layer->config.eps, 1e-3);
  EXPECT_EQ(layer->config.averaging, Averaging::kExponential);
  EXPECT_EQ(layer->config.update_weight, 0.25);
  EXPECT_EQ(layer->config.running_var_estimator, VarianceEstimator::kSample);
  EXPECT_EQ(layer->config.normalize_training_with, TrainingStatistics::kBatch);
  EXPECT_EQ(layer->config.affine, true);
  EXPECT_EQ(layer->config.track_running_stats, true);
  EXPECT_EQ(layer->config.clip, std::nullopt);
  EXPECT_EQ(layer->config.non_finite_policy, NonFinitePolicy::kSkipChannel);
  ASSERT_TRUE(layer->state.has_value());
  EXPECT_THAT(layer->state->running_mean, ElementsAre(0.5, -0.5));
  EXPECT_EQ(layer->state->num_batches_tracked, 3);
  EXPECT_EQ(layer->version, 9);
  EXPECT_EQ(layer->content_hash, "ff");
  EXPECT_EQ(layer->etag, "e1");
  EXPECT_EQ(layer->create_time, absl::FromUnixSeconds(1000));
  EXPECT_EQ(layer->update_time, absl::FromUnixMillis(2'000'500));
}

class ClientTest : public ::testing::Test {
 protected:
  FakeServer server_;
  std::unique_ptr<Client> client_ = Client::Connect(server_.target());
};

TEST_F(ClientTest, CreateLayerSendsWhatIsSetAndNothingElse) {
  server_.create_layer = [](grpc::ServerContext*, const v1::CreateLayerRequest&, v1::CreateLayerResponse* response) {
    FillLayer(response->mutable_layer());
    return grpc::Status::OK;
  };
  LayerSpec spec;
  spec.name = "net.bn1";
  spec.preset = "pytorch";
  spec.config.num_channels = 2;
  spec.config.averaging = Averaging::kPooled;
  spec.config.affine = false;
  spec.config.clip = 10.0;
  spec.initial_state.emplace();
  spec.initial_state->running_mean = {1, 2};
  spec.initial_state->running_var = {3, 4};
  spec.initial_state->sample_count = {5, 6};
  ExpectLayer(client_->CreateLayer(spec));

  const auto request = server_.create_layer.requests().at(0);
  EXPECT_EQ(request.name(), "net.bn1");
  EXPECT_EQ(request.preset(), "pytorch");
  EXPECT_FALSE(request.request_id().empty());
  EXPECT_EQ(request.config().num_channels(), 2);
  EXPECT_EQ(request.config().averaging(), v1::AVERAGING_POOLED);
  EXPECT_TRUE(request.config().has_affine());
  EXPECT_FALSE(request.config().affine());
  EXPECT_EQ(request.config().clip(), 10.0);
  EXPECT_FALSE(request.config().has_eps());
  EXPECT_FALSE(request.config().has_update_weight());
  EXPECT_FALSE(request.config().has_track_running_stats());
  EXPECT_EQ(request.config().running_var_estimator(), v1::VARIANCE_ESTIMATOR_UNSPECIFIED);
  EXPECT_EQ(request.config().normalize_training_with(), v1::TRAINING_STATISTICS_UNSPECIFIED);
  EXPECT_EQ(request.config().non_finite_policy(), v1::NON_FINITE_POLICY_UNSPECIFIED);
  EXPECT_THAT(request.initial_state().running_mean(), ElementsAre(1, 2));
  EXPECT_THAT(request.initial_state().running_var(), ElementsAre(3, 4));
  EXPECT_THAT(request.initial_state().sample_count(), ElementsAre(5, 6));
}

TEST_F(ClientTest, TheOtherLayerMethodsCarryTheirArguments) {
  const auto fill = [](auto*, const auto&, auto* response) {
    FillLayer(response->mutable_layer());
    return grpc::Status::OK;
  };
  server_.get_layer = fill;
  server_.update_layer = fill;
  server_.reset_statistics = fill;
  server_.set_state = fill;
  server_.delete_layer = [](auto*, const auto&, auto*) { return grpc::Status::OK; };
  server_.list_layers = [](auto*, const auto&, auto* response) {
    FillLayer(response->add_layers());
    response->set_next_page_token("more");
    return grpc::Status::OK;
  };

  ExpectLayer(client_->GetLayer("net.bn1", true));
  EXPECT_EQ(server_.get_layer.requests().at(0).view(), v1::LAYER_VIEW_STATE);
  ExpectLayer(client_->GetLayer("net.bn1"));
  EXPECT_EQ(server_.get_layer.requests().at(1).view(), v1::LAYER_VIEW_CONFIG);

  LayerConfig config;
  config.eps = 1e-4;
  ExpectLayer(client_->UpdateLayer("net.bn1", config, {"eps", "clip"}, "e0", {.timeout = {}, .request_id = "r"}));
  const auto update = server_.update_layer.requests().at(0);
  EXPECT_EQ(update.name(), "net.bn1");
  EXPECT_THAT(update.update_mask().paths(), ElementsAre("eps", "clip"));
  EXPECT_EQ(update.config().eps(), 1e-4);
  EXPECT_FALSE(update.config().has_clip());
  EXPECT_EQ(update.etag(), "e0");
  EXPECT_EQ(update.request_id(), "r");

  ExpectLayer(client_->ResetStatistics("net.bn1", 8));
  EXPECT_EQ(server_.reset_statistics.requests().at(0).expected_version(), 8);

  LayerState state;
  state.gamma = {1, 2};
  state.beta = {3, 4};
  ExpectLayer(client_->SetState("net.bn1", state, 5, true));
  const auto set = server_.set_state.requests().at(0);
  EXPECT_THAT(set.state().gamma(), ElementsAre(1, 2));
  EXPECT_THAT(set.state().beta(), ElementsAre(3, 4));
  EXPECT_EQ(set.expected_version(), 5);
  EXPECT_TRUE(set.reset_optimizer());

  EXPECT_TRUE(client_->DeleteLayer("net.bn1", "e9").ok());
  EXPECT_EQ(server_.delete_layer.requests().at(0).etag(), "e9");

  const auto page = client_->ListLayers({.prefix = "net.", .page_size = 7, .page_token = "t", .with_state = true});
  ASSERT_TRUE(page.ok()) << page.status();
  EXPECT_EQ(page->next_page_token, "more");
  ASSERT_EQ(page->layers.size(), 1U);
  ExpectLayer(page->layers[0]);
  const auto list = server_.list_layers.requests().at(0);
  EXPECT_EQ(list.prefix(), "net.");
  EXPECT_EQ(list.page_size(), 7);
  EXPECT_EQ(list.page_token(), "t");
  EXPECT_EQ(list.view(), v1::LAYER_VIEW_STATE);
}

TEST_F(ClientTest, BackwardCarriesItsArguments) {
  server_.backward = [](auto*, const v1::BackwardRequest& request, v1::BackwardResponse* response) {
    if (!request.omit_dx()) *response->mutable_dx() = request.dy();
    response->add_dgamma(1);
    response->add_dbeta(2);
    response->add_gamma(3);
    response->add_beta(4);
    response->set_version(5);
    response->set_content_hash("h");
    response->set_replayed(true);
    return grpc::Status::OK;
  };
  const std::vector<float> x = {1, 2};
  const TensorView view(absl::MakeConstSpan(x), {2, 1}, Layout::kChannelsLast);
  BackwardOptions options;
  options.batch_mean = {1};
  options.batch_var = {2};
  options.gamma = {3};
  options.optimizer = Adam{.learning_rate = 0.5, .weight_decay = 0.25, .decoupled_weight_decay = true};
  const auto result = client_->Backward("a", view, view, options);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->dx.layout(), Layout::kChannelsLast);
  EXPECT_THAT(result->dgamma, ElementsAre(1));
  EXPECT_THAT(result->dbeta, ElementsAre(2));
  EXPECT_THAT(result->gamma, ElementsAre(3));
  EXPECT_THAT(result->beta, ElementsAre(4));
  EXPECT_EQ(result->version, 5);
  EXPECT_EQ(result->content_hash, "h");
  EXPECT_TRUE(result->replayed);
  const auto adam = server_.backward.requests().at(0);
  EXPECT_EQ(adam.mode(), v1::BACKWARD_MODE_TRAINING);
  EXPECT_THAT(adam.batch_mean(), ElementsAre(1));
  EXPECT_THAT(adam.batch_var(), ElementsAre(2));
  EXPECT_THAT(adam.gamma(), ElementsAre(3));
  EXPECT_EQ(adam.adam().learning_rate(), 0.5);
  EXPECT_EQ(adam.adam().beta1(), 0.9);
  EXPECT_EQ(adam.adam().beta2(), 0.999);
  EXPECT_EQ(adam.adam().eps(), 1e-8);
  EXPECT_EQ(adam.adam().weight_decay(), 0.25);
  EXPECT_TRUE(adam.adam().decoupled_weight_decay());
  EXPECT_FALSE(adam.request_id().empty());

  options = {};
  options.optimizer = Sgd{.learning_rate = 0.5, .momentum = 0.9, .nesterov = true};
  ASSERT_TRUE(client_->Backward("a", view, view, options).ok());
  const auto sgd = server_.backward.requests().at(1);
  EXPECT_EQ(sgd.sgd().learning_rate(), 0.5);
  EXPECT_EQ(sgd.sgd().momentum(), 0.9);
  EXPECT_TRUE(sgd.sgd().nesterov());

  options = {};
  options.frozen = true;
  options.omit_dx = true;
  options.version = 4;
  const auto frozen_result = client_->Backward("a", view, view, options);
  ASSERT_TRUE(frozen_result.ok()) << frozen_result.status();
  EXPECT_TRUE(frozen_result->dx.empty());
  const auto frozen = server_.backward.requests().at(2);
  EXPECT_EQ(frozen.mode(), v1::BACKWARD_MODE_FROZEN);
  EXPECT_TRUE(frozen.omit_dx());
  EXPECT_EQ(frozen.version(), 4);
  EXPECT_EQ(frozen.optimizer_case(), v1::BackwardRequest::OPTIMIZER_NOT_SET);
  EXPECT_TRUE(frozen.request_id().empty()) << "a call that changes nothing needs no memory of it";
}

TEST_F(ClientTest, TrainStepCarriesItsArguments) {
  server_.train_step = [](auto*, const v1::TrainStepRequest& request, v1::TrainStepResponse* response) {
    if (!request.omit_output()) *response->mutable_y() = request.x();
    response->add_batch_mean(1);
    response->add_batch_var(2);
    response->set_version(3);
    response->set_content_hash("h");
    response->set_num_batches_tracked(4);
    response->add_skipped_channels(0);
    response->set_replayed(true);
    return grpc::Status::OK;
  };
  const std::vector<float> x = {1, 2};
  const TensorView view(absl::MakeConstSpan(x), {2, 1});
  TrainStepOptions options;
  options.gamma = {1};
  options.beta = {2};
  options.omit_output = true;
  options.skip_update = true;
  const auto result = client_->TrainStep("a", view, options);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(result->y.empty());
  EXPECT_THAT(result->batch_mean, ElementsAre(1));
  EXPECT_THAT(result->batch_var, ElementsAre(2));
  EXPECT_EQ(result->version, 3);
  EXPECT_EQ(result->content_hash, "h");
  EXPECT_EQ(result->num_batches_tracked, 4);
  EXPECT_THAT(result->skipped_channels, ElementsAre(0));
  EXPECT_TRUE(result->replayed);
  const auto request = server_.train_step.requests().at(0);
  EXPECT_EQ(request.layer(), "a");
  EXPECT_THAT(request.gamma(), ElementsAre(1));
  EXPECT_THAT(request.beta(), ElementsAre(2));
  EXPECT_TRUE(request.omit_output());
  EXPECT_TRUE(request.skip_update());
}

TEST_F(ClientTest, TensorsKeepEveryBit) {
  server_.infer = [](auto*, const v1::InferRequest& request, v1::InferResponse* response) {
    *response->mutable_y() = request.x();
    response->set_version(request.version());
    return grpc::Status::OK;
  };
  const std::vector<float> f32 = {0.0F,
                                  -0.0F,
                                  std::numeric_limits<float>::denorm_min(),
                                  std::numeric_limits<float>::infinity(),
                                  std::bit_cast<float>(0x7fc12345U),
                                  0.1F};
  const auto y32 = client_->Infer("a", TensorView(absl::MakeConstSpan(f32), {3, 2}), {{}, 12});
  ASSERT_TRUE(y32.ok()) << y32.status();
  EXPECT_EQ(y32->output.dtype(), DType::kFloat32);
  EXPECT_EQ(y32->output.layout(), Layout::kChannelsFirst);
  EXPECT_THAT(y32->output.shape(), ElementsAre(3, 2));
  EXPECT_EQ(y32->version, 12);
  ASSERT_EQ(y32->output.bytes().size(), 24U);
  EXPECT_EQ(std::memcmp(y32->output.bytes().data(), f32.data(), 24), 0);
  EXPECT_TRUE(y32->output.values<double>().empty());

  const std::vector<double> f64 = {-0.0, std::bit_cast<double>(uint64_t{0xfff8000000000abc}), 1e-320, 0.1};
  const auto y64 = client_->Infer("a", TensorView(absl::MakeConstSpan(f64), {1, 2, 2}, Layout::kChannelsLast));
  ASSERT_TRUE(y64.ok()) << y64.status();
  EXPECT_EQ(y64->output.dtype(), DType::kFloat64);
  EXPECT_EQ(y64->output.layout(), Layout::kChannelsLast);
  EXPECT_THAT(y64->output.shape(), ElementsAre(1, 2, 2));
  EXPECT_EQ(std::memcmp(y64->output.bytes().data(), f64.data(), 32), 0);

  const std::vector<Float16> f16 = {{0x3C00}, {0x8000}, {0x0001}, {0x7C00}, {0x7D55}, {0x2E66}};
  const auto y16 = client_->Infer("a", TensorView(f16, {3, 2}));
  ASSERT_TRUE(y16.ok()) << y16.status();
  EXPECT_EQ(y16->output.dtype(), DType::kFloat16);
  ASSERT_EQ(y16->output.values<Float16>().size(), 6U);
  EXPECT_EQ(std::memcmp(y16->output.bytes().data(), f16.data(), 12), 0);
  EXPECT_TRUE(y16->output.values<BFloat16>().empty()) << "as long, but other numbers";

  const std::vector<BFloat16> bf16 = {{0x3F80}, {0x8000}, {0x0001}, {0x7F80}, {0x7FA5}, {0x3DCD}};
  const auto y_bf16 = client_->Infer("a", TensorView(bf16, {2, 3}));
  ASSERT_TRUE(y_bf16.ok()) << y_bf16.status();
  EXPECT_EQ(y_bf16->output.dtype(), DType::kBFloat16);
  ASSERT_EQ(y_bf16->output.values<BFloat16>().size(), 6U);
  EXPECT_EQ(std::memcmp(y_bf16->output.bytes().data(), bf16.data(), 12), 0);
  EXPECT_TRUE(y_bf16->output.values<Float16>().empty());

  EXPECT_EQ(server_.infer.requests().at(2).x().dtype(), v1::DATA_TYPE_FLOAT16);
  EXPECT_EQ(server_.infer.requests().at(2).x().data().substr(10), "\x66\x2e");
  EXPECT_EQ(server_.infer.requests().at(3).x().dtype(), v1::DATA_TYPE_BFLOAT16);

  // The wire is little-endian, whatever machine this is.
  EXPECT_EQ(server_.infer.requests().at(1).x().data().substr(24), std::string("\x9a\x99\x99\x99\x99\x99\xb9\x3f", 8));

  // What came back goes into the next call as it is.
  ASSERT_TRUE(client_->Infer("a", y64->output.view()).ok());
  EXPECT_EQ(server_.infer.requests().at(4).x().data(), server_.infer.requests().at(1).x().data());
}

template <typename T>
std::vector<double> Doubles(DType dtype, const std::vector<T>& values, std::size_t most = 100) {
  const std::string bytes(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
  return Tensor(dtype, {static_cast<int64_t>(values.size())}, Layout::kChannelsFirst, bytes).ToDoubles(most);
}

// The values are those of IEEE 754's definition, worked out by hand.
TEST(TensorTest, EveryElementTypeReadsAsDoubles) {
  EXPECT_THAT(Doubles<Float16>(
                  DType::kFloat16,
                  {{0x0000}, {0x3C00}, {0xC000}, {0x7BFF}, {0x0400}, {0x03FF}, {0x8001}, {0x3555}, {0x7C00}, {0xFC00}}),
              ElementsAre(0, 1, -2, 65504, 0x1p-14, 1023 * 0x1p-24, -0x1p-24, 1365 * 0x1p-12, kInf, -kInf));
  EXPECT_THAT(
      Doubles<BFloat16>(DType::kBFloat16,
                        {{0x0000}, {0x3F80}, {0xC040}, {0x7F7F}, {0x0080}, {0x8001}, {0x3EAB}, {0x7F80}, {0xFF80}}),
      ElementsAre(0, 1, -3, 255 * 0x1p120, 0x1p-126, -0x1p-133, 171 * 0x1p-9, kInf, -kInf));
  EXPECT_TRUE(std::signbit(Doubles<Float16>(DType::kFloat16, {{0x8000}})[0]));
  for (const uint16_t bits : std::vector<uint16_t>{0x7C01, 0x7E00, 0xFFFF})
    EXPECT_TRUE(std::isnan(ToFloat(Float16{bits}))) << bits;
  for (const uint16_t bits : std::vector<uint16_t>{0x7F81, 0x7FC0, 0xFFFF})
    EXPECT_TRUE(std::isnan(ToFloat(BFloat16{bits}))) << bits;
  EXPECT_THAT(Doubles<float>(DType::kFloat32, {0.5F, -3}), ElementsAre(0.5, -3));
  EXPECT_THAT(Doubles<double>(DType::kFloat64, {0.1, 1e300, 7}, 2), ElementsAre(0.1, 1e300));
}

TEST_F(ClientTest, TensorsThatDoNotFitThemselvesAreNotSent) {
  const std::vector<float> four = {1, 2, 3, 4};
  constexpr int64_t kHuge = int64_t{1} << 62;
  struct Case {
    const char* name;
    std::vector<int64_t> shape;
    const char* text;
  };
  const Case cases[] = {
      {"too short", {2, 3}, "x of shape [2, 3] has 16 bytes, want 24 (float32)"},
      {"too long", {1, 2}, "x of shape [1, 2] has 16 bytes, want 8 (float32)"},
      {"negative extent", {-2, -2}, "x of shape [-2, -2]: want extents >= 0"},
      {"product overflows", {kHuge, 16}, "want extents >= 0 whose product fits"},
      {"product overflows to the right length", {kHuge, 4, 1}, "want extents >= 0 whose product fits"},
      {"element size overflows", {kHuge, 1}, "want extents >= 0 whose product fits"},
      {"no elements", {0, 4}, "has 16 bytes, want 0"},
      {"no elements, though others overflow", {kHuge, 4, 0}, "want extents >= 0 whose product fits"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    const TensorView view(absl::MakeConstSpan(four), c.shape);
    for (const absl::Status& status : {client_->Infer("a.b", view).status(), client_->TrainStep("a.b", view).status(),
                                       client_->Backward("a.b", view, view).status()}) {
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
      EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("layer 'a.b': "), HasSubstr(c.text)));
    }
  }
  const TensorView x(absl::MakeConstSpan(four), {2, 2});
  EXPECT_THAT(std::string(client_->Denormalize("a", TensorView(absl::MakeConstSpan(four), {9})).status().message()),
              HasSubstr("layer 'a': y of shape [9]"));
  EXPECT_THAT(std::string(client_->Backward("a", x, TensorView(absl::MakeConstSpan(four), {9})).status().message()),
              HasSubstr("layer 'a': dy of shape [9]"));
  EXPECT_TRUE(server_.infer.requests().empty());
  EXPECT_TRUE(server_.train_step.requests().empty());
  EXPECT_TRUE(server_.backward.requests().empty());
}

TEST_F(ClientTest, AnAnswerThatDoesNotFitItselfIsAnError) {
  server_.infer = [](auto*, const v1::InferRequest& request, v1::InferResponse* response) {
    *response->mutable_y() = request.x();
    if (request.version() == 1) response->mutable_y()->set_shape(0, 5);
    if (request.version() == 2) response->mutable_y()->set_dtype(static_cast<v1::DataType>(99));
    if (request.version() == 3) response->clear_y();
    return grpc::Status::OK;
  };
  const std::vector<float> x = {1, 2};
  for (const int64_t version : {1, 2, 3}) {
    EXPECT_EQ(client_->Infer("a", TensorView(absl::MakeConstSpan(x), {2, 1}), {{}, version}).status().code(),
              absl::StatusCode::kInternal)
        << version;
  }
}

TEST_F(ClientTest, ErrorsKeepCodeTextAndDetails) {
  server_.get_layer = [](auto*, const v1::GetLayerRequest& request, auto*) {
    return grpc::Status(static_cast<grpc::StatusCode>(std::stoi(request.name())), "the server's words", "details");
  };
  for (int code = 1; code <= 16; ++code) {
    const absl::Status status = client_->GetLayer(std::to_string(code)).status();
    EXPECT_EQ(static_cast<int>(status.code()), code);
    EXPECT_THAT(std::string(status.message()), HasSubstr("the server's words"));
    EXPECT_EQ(status.GetPayload("type.googleapis.com/google.rpc.Status"), absl::Cord("details"));
    const bool told_more = code == 4 || code == 14;
    EXPECT_EQ(status.message() == "the server's words", !told_more) << status;
  }
}

TEST_F(ClientTest, AnAnswerAboveTheLimitIsRefused) {
  server_.infer = [](auto*, const v1::InferRequest& request, v1::InferResponse* response) {
    *response->mutable_y() = request.x();
    return grpc::Status::OK;
  };
  // Above gRPC's own default of 4 MiB, which must not get in the way.
  const std::vector<float> x(2 << 20, 1.0F);
  const TensorView view(absl::MakeConstSpan(x), {2 << 20, 1});
  EXPECT_TRUE(client_->Infer("a", view).ok());
  ClientOptions options;
  options.max_message_bytes = 1 << 20;
  EXPECT_EQ(Client::Connect(server_.target(), options)->Infer("a", view).status().code(),
            absl::StatusCode::kResourceExhausted);
}

TEST(HealthTest, SaysWhatTheStandardServiceSays) {
  grpc::EnableDefaultHealthCheckService(true);
  FakeServer server;
  grpc::EnableDefaultHealthCheckService(false);
  const auto client = Client::Connect(server.target());
  EXPECT_EQ(client->Health().value(), ServingStatus::kServing);
  EXPECT_EQ(client->Health("normd.v1.LayerService").status().code(), absl::StatusCode::kNotFound);
}

TEST(HealthTest, AServerWithoutTheServiceIsUnimplemented) {
  FakeServer server;
  EXPECT_EQ(Client::Connect(server.target())->Health().status().code(), absl::StatusCode::kUnimplemented);
}

// Otherwise the last client to go may wait for 10 s.
TEST(ConnectTest, LeavesGrpcUpWhenTheLastClientGoes) {
  Client::Connect("127.0.0.1:1").reset();
  EXPECT_NE(grpc_is_initialized(), 0);
}

TEST(VersionTest, IsThreeNumbers) {
  EXPECT_THAT(std::string(Version()), ::testing::MatchesRegex("[0-9]+\\.[0-9]+\\.[0-9]+"));
}

}  // namespace
}  // namespace normd
