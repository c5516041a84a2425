// Bad input over the wire: each with its exact code and a message that says what was got and what is wanted, and with
// nothing changed.

#include <gmock/gmock.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "tests/integration/test_server.h"
#include "tests/non_finite.h"

namespace normd::tests {
namespace {

using ::testing::HasSubstr;
using tests::kInf;
using tests::kNaN;

using Layers = v1::LayerService::Stub;
using Normalization = v1::NormalizationService::Stub;

struct BadCase {
  const char* name;
  grpc::StatusCode code;
  std::vector<std::string> message_parts;
  std::function<grpc::Status(TestServer&)> call;
};

// Each makes a good request to layer 'bn' (2 channels, preset pytorch), lets `spoil` change it, and calls.

v1::Tensor GoodX() { return MakeTensor<float>({4, 2}, {1, 2, 3, 4, 5, 6, 7, 9}); }

auto Create(std::function<void(v1::CreateLayerRequest&)> spoil) {
  return [spoil](TestServer& server) {
    v1::CreateLayerRequest request;
    request.set_name("other");
    request.mutable_config()->set_num_channels(2);
    spoil(request);
    v1::CreateLayerResponse response;
    return Call(server.layers(), &Layers::CreateLayer, request, &response);
  };
}

auto Update(std::function<void(v1::UpdateLayerRequest&)> spoil) {
  return [spoil](TestServer& server) {
    v1::UpdateLayerRequest request;
    request.set_name("bn");
    request.mutable_config()->set_eps(0.5);
    request.mutable_update_mask()->add_paths("eps");
    spoil(request);
    v1::UpdateLayerResponse response;
    return Call(server.layers(), &Layers::UpdateLayer, request, &response);
  };
}

auto SetState(std::function<void(v1::SetStateRequest&)> spoil) {
  return [spoil](TestServer& server) {
    v1::SetStateRequest request;
    request.set_name("bn");
    for (int c = 0; c < 2; ++c) {
      request.mutable_state()->add_running_mean(7);
      request.mutable_state()->add_running_var(8);
    }
    spoil(request);
    v1::SetStateResponse response;
    return Call(server.layers(), &Layers::SetState, request, &response);
  };
}

auto Get(std::function<void(v1::GetLayerRequest&)> spoil) {
  return [spoil](TestServer& server) {
    v1::GetLayerRequest request;
    request.set_name("bn");
    spoil(request);
    v1::GetLayerResponse response;
    return Call(server.layers(), &Layers::GetLayer, request, &response);
  };
}

auto List(std::function<void(v1::ListLayersRequest&)> spoil) {
  return [spoil](TestServer& server) {
    v1::ListLayersRequest request;
    spoil(request);
    v1::ListLayersResponse response;
    return Call(server.layers(), &Layers::ListLayers, request, &response);
  };
}

auto Delete(std::function<void(v1::DeleteLayerRequest&)> spoil) {
  return [spoil](TestServer& server) {
    v1::DeleteLayerRequest request;
    request.set_name("bn");
    spoil(request);
    v1::DeleteLayerResponse response;
    return Call(server.layers(), &Layers::DeleteLayer, request, &response);
  };
}

auto Reset(std::function<void(v1::ResetStatisticsRequest&)> spoil) {
  return [spoil](TestServer& server) {
    v1::ResetStatisticsRequest request;
    request.set_name("bn");
    spoil(request);
    v1::ResetStatisticsResponse response;
    return Call(server.layers(), &Layers::ResetStatistics, request, &response);
  };
}

auto Train(std::function<void(v1::TrainStepRequest&)> spoil) {
  return [spoil](TestServer& server) {
    v1::TrainStepRequest request;
    request.set_layer("bn");
    *request.mutable_x() = GoodX();
    spoil(request);
    v1::TrainStepResponse response;
    return Call(server.normalization(), &Normalization::TrainStep, request, &response);
  };
}

auto TrainWith(v1::Tensor x) {
  return Train([x](v1::TrainStepRequest& r) { *r.mutable_x() = x; });
}

auto Infer(std::function<void(v1::InferRequest&)> spoil) {
  return [spoil](TestServer& server) {
    v1::InferRequest request;
    request.set_layer("bn");
    *request.mutable_x() = GoodX();
    spoil(request);
    v1::InferResponse response;
    return Call(server.normalization(), &Normalization::Infer, request, &response);
  };
}

auto Denormalize(std::function<void(v1::DenormalizeRequest&)> spoil) {
  return [spoil](TestServer& server) {
    v1::DenormalizeRequest request;
    request.set_layer("bn");
    *request.mutable_y() = GoodX();
    spoil(request);
    v1::DenormalizeResponse response;
    return Call(server.normalization(), &Normalization::Denormalize, request, &response);
  };
}

auto Backward(std::function<void(v1::BackwardRequest&)> spoil) {
  return [spoil](TestServer& server) {
    v1::BackwardRequest request;
    request.set_layer("bn");
    *request.mutable_x() = GoodX();
    *request.mutable_dy() = GoodX();
    for (int c = 0; c < 2; ++c) {
      request.add_batch_mean(1);
      request.add_batch_var(1);
    }
    request.mutable_sgd()->set_learning_rate(0.1);
    spoil(request);
    v1::BackwardResponse response;
    return Call(server.normalization(), &Normalization::Backward, request, &response);
  };
}

v1::Tensor WithShape(v1::Tensor tensor, const std::vector<int64_t>& shape) {
  tensor.mutable_shape()->Assign(shape.begin(), shape.end());
  return tensor;
}

v1::Tensor WithType(v1::Tensor tensor, int dtype) {
  tensor.set_dtype(static_cast<v1::DataType>(dtype));
  return tensor;
}

constexpr int64_t kHuge = int64_t{1} << 62;

const std::vector<BadCase>& BadCases() {
  static const auto* const cases = new std::vector<BadCase>{
      // Names.
      {"UnknownLayerTrain", grpc::NOT_FOUND, {"layer 'nope'"}, Train([](auto& r) { r.set_layer("nope"); })},
      {"UnknownLayerInfer", grpc::NOT_FOUND, {"layer 'nope'"}, Infer([](auto& r) { r.set_layer("nope"); })},
      {"UnknownLayerDenormalize", grpc::NOT_FOUND, {"layer 'nope'"}, Denormalize([](auto& r) { r.set_layer("nope"); })},
      {"UnknownLayerBackward", grpc::NOT_FOUND, {"layer 'nope'"}, Backward([](auto& r) { r.set_layer("nope"); })},
      {"UnknownLayerGet", grpc::NOT_FOUND, {"layer 'nope'"}, Get([](auto& r) { r.set_name("nope"); })},
      {"UnknownLayerUpdate", grpc::NOT_FOUND, {"layer 'nope'"}, Update([](auto& r) { r.set_name("nope"); })},
      {"UnknownLayerDelete", grpc::NOT_FOUND, {"layer 'nope'"}, Delete([](auto& r) { r.set_name("nope"); })},
      {"UnknownLayerReset", grpc::NOT_FOUND, {"layer 'nope'"}, Reset([](auto& r) { r.set_name("nope"); })},
      {"UnknownLayerSetState", grpc::NOT_FOUND, {"layer 'nope'"}, SetState([](auto& r) { r.set_name("nope"); })},
      {"EmptyName", grpc::INVALID_ARGUMENT, {"layer name", "is empty"}, Create([](auto& r) { r.set_name(""); })},
      {"NameWithSpace", grpc::INVALID_ARGUMENT, {"layer name 'a b'"}, Create([](auto& r) { r.set_name("a b"); })},
      {"NameWithTwoDots", grpc::INVALID_ARGUMENT, {"'a..b'", "segment"}, Create([](auto& r) { r.set_name("a..b"); })},
      {"NameWithLineBreak", grpc::INVALID_ARGUMENT, {"'a\\n'"}, Create([](auto& r) { r.set_name("a\n"); })},
      {"NameTooLong", grpc::INVALID_ARGUMENT, {"257 bytes", "at most 256"}, Create([](auto& r) {
         r.set_name(std::string(257, 'a'));
       })},
      {"BadNameTrain", grpc::INVALID_ARGUMENT, {"layer name '/x'"}, Train([](auto& r) { r.set_layer("/x"); })},
      {"BadNameInfer", grpc::INVALID_ARGUMENT, {"layer name"}, Infer([](auto& r) { r.set_layer(""); })},
      {"BadNameGet", grpc::INVALID_ARGUMENT, {"layer name"}, Get([](auto& r) { r.set_name(""); })},
      {"BadNameDelete", grpc::INVALID_ARGUMENT, {"layer name"}, Delete([](auto& r) { r.set_name("."); })},
      {"DuplicateCreate", grpc::ALREADY_EXISTS, {"layer 'bn'", "exists"}, Create([](auto& r) { r.set_name("bn"); })},
      {"RequestIdTooLong", grpc::INVALID_ARGUMENT, {"request_id", "129 bytes", "at most 128"}, Train([](auto& r) {
         r.set_request_id(std::string(129, 'a'));
       })},

      // Settings.
      {"NoConfig", grpc::INVALID_ARGUMENT, {"layer 'other'", "num_channels is 0"}, Create([](auto& r) {
         r.clear_config();
       })},
      {"NegativeChannels", grpc::INVALID_ARGUMENT, {"num_channels is -1"}, Create([](auto& r) {
         r.mutable_config()->set_num_channels(-1);
       })},
      {"TooManyChannels", grpc::INVALID_ARGUMENT, {"num_channels is 1048577, want 1 to 1048576"}, Create([](auto& r) {
         r.mutable_config()->set_num_channels(1048577);
       })},
      {"EpsZero", grpc::INVALID_ARGUMENT, {"layer 'other'", "eps is 0"}, Create([](auto& r) {
         r.mutable_config()->set_eps(0);
       })},
      {"EpsNegative", grpc::INVALID_ARGUMENT, {"eps is -1"}, Create([](auto& r) { r.mutable_config()->set_eps(-1); })},
      {"EpsInfinite", grpc::INVALID_ARGUMENT, {"eps is inf"}, Create([](auto& r) {
         r.mutable_config()->set_eps(kInf);
       })},
      {"EpsNaN", grpc::INVALID_ARGUMENT, {"eps is nan"}, Create([](auto& r) { r.mutable_config()->set_eps(kNaN); })},
      {"UpdateWeightAboveOne", grpc::INVALID_ARGUMENT, {"update_weight is 1.5", "[0, 1]"}, Create([](auto& r) {
         r.mutable_config()->set_update_weight(1.5);
       })},
      {"UpdateWeightNegative", grpc::INVALID_ARGUMENT, {"update_weight is -0.1"}, Create([](auto& r) {
         r.mutable_config()->set_update_weight(-0.1);
       })},
      {"UpdateWeightNaN", grpc::INVALID_ARGUMENT, {"update_weight is nan"}, Create([](auto& r) {
         r.mutable_config()->set_update_weight(kNaN);
       })},
      {"UpdateWeightOfPooled",
       grpc::INVALID_ARGUMENT,
       {"layer 'other'", "update_weight", "POOLED"},
       Create([](auto& r) {
         r.set_preset("standard_scaler");
         r.mutable_config()->set_update_weight(0.1);
       })},
      {"ClipZero", grpc::INVALID_ARGUMENT, {"clip is 0"}, Create([](auto& r) { r.mutable_config()->set_clip(0); })},
      {"UnknownPreset", grpc::INVALID_ARGUMENT, {"layer 'other'", "'torch'", "pytorch"}, Create([](auto& r) {
         r.set_preset("torch");
       })},
      {"UnknownEnum", grpc::INVALID_ARGUMENT, {"layer 'other'", "averaging is 99"}, Create([](auto& r) {
         r.mutable_config()->set_averaging(static_cast<v1::Averaging>(99));
       })},
      {"InitialStateTooShort", grpc::INVALID_ARGUMENT, {"gamma has 1 entries, want 2"}, Create([](auto& r) {
         r.mutable_initial_state()->add_gamma(1);
         r.mutable_initial_state()->add_beta(1);
       })},
      {"EmptyMask", grpc::INVALID_ARGUMENT, {"layer 'bn'", "update_mask is empty"}, Update([](auto& r) {
         r.clear_update_mask();
       })},
      {"UnknownField", grpc::INVALID_ARGUMENT, {"layer 'bn'", "momentum"}, Update([](auto& r) {
         r.mutable_update_mask()->add_paths("momentum");
       })},
      {"MaskNamesAbsentField", grpc::INVALID_ARGUMENT, {"layer 'bn'", "update_weight"}, Update([](auto& r) {
         r.mutable_update_mask()->add_paths("update_weight");
       })},
      {"ImmutableField", grpc::FAILED_PRECONDITION, {"layer 'bn'", "affine is immutable"}, Update([](auto& r) {
         r.mutable_update_mask()->add_paths("affine");
       })},
      {"UpdateEpsZero", grpc::INVALID_ARGUMENT, {"layer 'bn'", "eps is 0"}, Update([](auto& r) {
         r.mutable_config()->set_eps(0);
       })},
      {"StaleEtagUpdate", grpc::ABORTED, {"layer 'bn'", "etag"}, Update([](auto& r) { r.set_etag("stale"); })},
      {"StaleEtagDelete", grpc::ABORTED, {"layer 'bn'", "etag"}, Delete([](auto& r) { r.set_etag("stale"); })},
      {"StaleVersionReset", grpc::ABORTED, {"layer 'bn'", "version 1, want 9"}, Reset([](auto& r) {
         r.set_expected_version(9);
       })},
      {"StaleVersionSetState", grpc::ABORTED, {"layer 'bn'", "version 1, want 9"}, SetState([](auto& r) {
         r.set_expected_version(9);
       })},
      {"NegativeVersion", grpc::INVALID_ARGUMENT, {"expected_version is -1"}, SetState([](auto& r) {
         r.set_expected_version(-1);
       })},
      {"NoState", grpc::INVALID_ARGUMENT, {"layer 'bn'", "state is missing"}, SetState([](auto& r) {
         r.clear_state();
       })},
      {"StateWithoutVar",
       grpc::INVALID_ARGUMENT,
       {"layer 'bn'", "running_mean is given without running_var"},
       SetState([](auto& r) { r.mutable_state()->clear_running_var(); })},
      {"NegativeVar", grpc::INVALID_ARGUMENT, {"running_var[1] is -1"}, SetState([](auto& r) {
         r.mutable_state()->set_running_var(1, -1);
       })},
      {"NaNMean", grpc::INVALID_ARGUMENT, {"running_mean[0] is nan"}, SetState([](auto& r) {
         r.mutable_state()->set_running_mean(0, kNaN);
       })},
      {"UnknownView", grpc::INVALID_ARGUMENT, {"view is 7"}, Get([](auto& r) {
         r.set_view(static_cast<v1::LayerView>(7));
       })},
      {"NegativePageSize", grpc::INVALID_ARGUMENT, {"page_size is -1"}, List([](auto& r) { r.set_page_size(-1); })},
      {"PageTokenNotBase64", grpc::INVALID_ARGUMENT, {"page_token"}, List([](auto& r) { r.set_page_token("%%%"); })},
      {"PageTokenOfAnotherPrefix", grpc::INVALID_ARGUMENT, {"page_token", "prefix"}, List([](auto& r) {
         r.set_prefix("a");
         r.set_page_token("Ym4");  // "bn"
       })},

      // Tensors.
      {"NoTensor", grpc::INVALID_ARGUMENT, {"layer 'bn'", "x is missing"}, Train([](auto& r) { r.clear_x(); })},
      {"WrongChannels",
       grpc::INVALID_ARGUMENT,
       {"layer 'bn': x has 4 channels, want 2"},
       TrainWith(WithShape(GoodX(), {2, 4}))},
      {"WrongChannelsInfer", grpc::INVALID_ARGUMENT, {"layer 'bn': x has 4 channels, want 2"}, Infer([](auto& r) {
         *r.mutable_x() = WithShape(GoodX(), {2, 4});
       })},
      {"WrongChannelsDenormalize",
       grpc::INVALID_ARGUMENT,
       {"layer 'bn': y has 4 channels, want 2"},
       Denormalize([](auto& r) {
         *r.mutable_y() = WithShape(GoodX(), {2, 4});
       })},
      {"WrongLayout", grpc::INVALID_ARGUMENT, {"x has 4 channels, want 2", "last"}, Train([](auto& r) {
         *r.mutable_x() = WithShape(GoodX(), {1, 2, 4});
         r.mutable_x()->set_layout(v1::LAYOUT_CHANNELS_LAST);
       })},
      {"UnknownLayout", grpc::INVALID_ARGUMENT, {"layer 'bn'", "layout 9"}, Train([](auto& r) {
         r.mutable_x()->set_layout(static_cast<v1::Layout>(9));
       })},
      {"Rank0", grpc::INVALID_ARGUMENT, {"layer 'bn': x has rank 0, want 2 to 8"}, TrainWith(WithShape(GoodX(), {}))},
      {"Rank1", grpc::INVALID_ARGUMENT, {"x has rank 1, want 2 to 8"}, TrainWith(WithShape(GoodX(), {8}))},
      {"Rank9",
       grpc::INVALID_ARGUMENT,
       {"x has rank 9, want 2 to 8"},
       TrainWith(WithShape(GoodX(), {4, 2, 1, 1, 1, 1, 1, 1, 1}))},
      {"EmptyBatch",
       grpc::INVALID_ARGUMENT,
       {"layer 'bn': x", "[0,2]", "empty batch"},
       TrainWith(MakeTensor<float>({0, 2}, {}))},
      {"EmptyBatchInfer", grpc::INVALID_ARGUMENT, {"empty batch"}, Infer([](auto& r) {
         *r.mutable_x() = MakeTensor<float>({0, 2}, {});
       })},
      {"ZeroExtent", grpc::INVALID_ARGUMENT, {"[4,2,0]"}, TrainWith(MakeTensor<float>({4, 2, 0}, {}))},
      {"NegativeExtent", grpc::INVALID_ARGUMENT, {"[-4,2]", "at least 1"}, TrainWith(WithShape(GoodX(), {-4, 2}))},
      {"TwoNegativeExtents", grpc::INVALID_ARGUMENT, {"at least 1"}, TrainWith(WithShape(GoodX(), {-4, 2, -1}))},
      {"OverflowingShape",
       grpc::INVALID_ARGUMENT,
       {"x has shape", "64 bits"},
       TrainWith(WithShape(GoodX(), {kHuge, 2, kHuge, 4}))},
      {"ShapeThatWrapsToTheBytes",
       grpc::INVALID_ARGUMENT,
       {"64 bits"},
       TrainWith(WithShape(GoodX(), {int64_t{1} << 32, 2, int64_t{1} << 32}))},
      {"TooFewBytes", grpc::INVALID_ARGUMENT, {"x has 31 bytes of data, want 32"}, Train([](auto& r) {
         r.mutable_x()->mutable_data()->pop_back();
       })},
      {"TooManyBytes", grpc::INVALID_ARGUMENT, {"x has 33 bytes of data, want 32"}, Train([](auto& r) {
         r.mutable_x()->mutable_data()->push_back('\0');
       })},
      {"NoBytes", grpc::INVALID_ARGUMENT, {"x has 0 bytes of data, want 32"}, Infer([](auto& r) {
         r.mutable_x()->clear_data();
       })},
      {"TooManyBytesForFloat16",
       grpc::INVALID_ARGUMENT,
       {"layer 'bn'", "x has 32 bytes of data, want 16 for shape [4,2] of FLOAT16"},
       TrainWith(WithType(GoodX(), v1::DATA_TYPE_FLOAT16))},
      {"TooManyBytesForBFloat16",
       grpc::INVALID_ARGUMENT,
       {"layer 'bn'", "x has 32 bytes of data, want 16 for shape [4,2] of BFLOAT16"},
       Infer([](auto& r) { r.mutable_x()->set_dtype(v1::DATA_TYPE_BFLOAT16); })},
      {"NoDtype",
       grpc::INVALID_ARGUMENT,
       {"layer 'bn'", "dtype UNSPECIFIED is not supported: want FLOAT32, FLOAT64, FLOAT16 or BFLOAT16"},
       Denormalize([](auto& r) { r.mutable_y()->clear_dtype(); })},
      {"UnknownDtype", grpc::INVALID_ARGUMENT, {"dtype 77 is not supported"}, TrainWith(WithType(GoodX(), 77))},
      {"OneValuePerChannel",
       grpc::INVALID_ARGUMENT,
       {"layer 'bn'", "one value per channel, want at least 2"},
       TrainWith(MakeTensor<float>({1, 2}, {1, 2}))},
      {"NaNInTraining",
       grpc::INVALID_ARGUMENT,
       {"layer 'bn'", "channel 1"},
       TrainWith(MakeTensor<double>({2, 2}, {1, 2, 3, kNaN}))},
      {"InfinityInTraining",
       grpc::INVALID_ARGUMENT,
       {"layer 'bn'", "channel 0"},
       TrainWith(MakeTensor<double>({2, 2}, {1, 2, -kInf, 3}))},
      {"GammaWithoutBeta", grpc::INVALID_ARGUMENT, {"layer 'bn'", "gamma"}, Train([](auto& r) {
         r.add_gamma(1);
         r.add_gamma(1);
       })},
      {"WrongPinInfer", grpc::FAILED_PRECONDITION, {"layer 'bn'", "version 1, want 5"}, Infer([](auto& r) {
         r.set_version(5);
       })},
      {"NegativePinInfer", grpc::INVALID_ARGUMENT, {"version is -2"}, Infer([](auto& r) { r.set_version(-2); })},

      // Gradients.
      {"NoDy", grpc::INVALID_ARGUMENT, {"layer 'bn'", "dy is missing"}, Backward([](auto& r) { r.clear_dy(); })},
      {"DyOfAnotherShape", grpc::INVALID_ARGUMENT, {"layer 'bn'", "dy", "[2,2,2]", "[4,2]"}, Backward([](auto& r) {
         *r.mutable_dy() = WithShape(GoodX(), {2, 2, 2});
       })},
      {"DyOfAnotherLength", grpc::INVALID_ARGUMENT, {"layer 'bn'", "dy"}, Backward([](auto& r) {
         *r.mutable_dy() = MakeTensor<float>({3, 2}, {1, 2, 3, 4, 5, 6});
       })},
      {"DyOfAnotherType", grpc::INVALID_ARGUMENT, {"layer 'bn'", "dy", "FLOAT64", "FLOAT32"}, Backward([](auto& r) {
         *r.mutable_dy() = MakeTensor<double>({4, 2}, {1, 2, 3, 4, 5, 6, 7, 8});
       })},
      {"DyOfTheOther16BitType",
       grpc::INVALID_ARGUMENT,
       {"layer 'bn'", "dy", "BFLOAT16", "FLOAT16"},
       Backward([](auto& r) {
         for (v1::Tensor* tensor : {r.mutable_x(), r.mutable_dy()}) tensor->set_data(std::string(16, '\0'));
         r.mutable_x()->set_dtype(v1::DATA_TYPE_FLOAT16);
         r.mutable_dy()->set_dtype(v1::DATA_TYPE_BFLOAT16);
       })},
      {"NoBatchStatistics",
       grpc::INVALID_ARGUMENT,
       {"layer 'bn'", "batch_mean has 0 entries, want 2"},
       Backward([](auto& r) { r.clear_batch_mean(); })},
      {"BatchVarTooLong", grpc::INVALID_ARGUMENT, {"batch_var has 3 entries, want 2"}, Backward([](auto& r) {
         r.add_batch_var(1);
       })},
      {"NegativeBatchVar", grpc::INVALID_ARGUMENT, {"batch_var[0] is -1"}, Backward([](auto& r) {
         r.set_batch_var(0, -1);
       })},
      {"FrozenWithBatchStatistics", grpc::INVALID_ARGUMENT, {"layer 'bn'", "batch_mean"}, Backward([](auto& r) {
         r.set_mode(v1::BACKWARD_MODE_FROZEN);
       })},
      {"UnknownMode", grpc::INVALID_ARGUMENT, {"layer 'bn'", "mode is 4"}, Backward([](auto& r) {
         r.set_mode(static_cast<v1::BackwardMode>(4));
       })},
      {"NegativeLearningRate", grpc::INVALID_ARGUMENT, {"learning_rate is -1"}, Backward([](auto& r) {
         r.mutable_sgd()->set_learning_rate(-1);
       })},
      {"NesterovWithoutMomentum", grpc::INVALID_ARGUMENT, {"nesterov"}, Backward([](auto& r) {
         r.mutable_sgd()->set_nesterov(true);
       })},
      {"AdamBetaOne", grpc::INVALID_ARGUMENT, {"beta1 is 1"}, Backward([](auto& r) {
         r.mutable_adam()->set_beta1(1);
       })},
      {"NaNGradient", grpc::INVALID_ARGUMENT, {"layer 'bn'", "dy"}, Backward([](auto& r) {
         *r.mutable_dy() = MakeTensor<float>({4, 2}, {1, 2, 3, std::numeric_limits<float>::quiet_NaN(), 5, 6, 7, 8});
       })},
  };
  return *cases;
}

class BadInputTest : public ::testing::TestWithParam<BadCase> {
 protected:
  // One server for all cases: none may change it.
  static void SetUpTestSuite() {
    server_ = new TestServer;
    before_ = new v1::Layer(server_->Create("bn", 2, "pytorch"));
    *before_ = server_->Get("bn");
  }
  static void TearDownTestSuite() {
    delete before_;
    delete server_;
  }

  static TestServer* server_;
  static v1::Layer* before_;
};

TestServer* BadInputTest::server_ = nullptr;
v1::Layer* BadInputTest::before_ = nullptr;

TEST_P(BadInputTest, IsRefusedAndChangesNothing) {
  const grpc::Status status = GetParam().call(*server_);
  EXPECT_EQ(status.error_code(), GetParam().code) << status.error_message();
  for (const std::string& part : GetParam().message_parts) EXPECT_THAT(status.error_message(), HasSubstr(part));

  const v1::Layer after = server_->Get("bn");
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(*before_, after))
      << "before: " << before_->ShortDebugString() << "\nafter: " << after.ShortDebugString();
  v1::ListLayersResponse list;
  ASSERT_THAT(Call(server_->layers(), &Layers::ListLayers, v1::ListLayersRequest(), &list), GrpcIsOk());
  EXPECT_EQ(list.layers_size(), 1);
}

INSTANTIATE_TEST_SUITE_P(Wire, BadInputTest, ::testing::ValuesIn(BadCases()),
                         [](const auto& test) { return std::string(test.param.name); });

// Cases that need two calls or a server of their own.

TEST(BadInput, ARequestIdOnAnotherCallIsRefused) {
  TestServer server;
  server.Create("bn", 2);
  v1::TrainStepRequest request;
  request.set_layer("bn");
  request.set_request_id("same");
  *request.mutable_x() = GoodX();
  v1::TrainStepResponse response;
  ASSERT_THAT(Call(server.normalization(), &Normalization::TrainStep, request, &response), GrpcIsOk());
  *request.mutable_x() = MakeTensor<float>({2, 2}, {1, 2, 3, 5});
  EXPECT_THAT(Call(server.normalization(), &Normalization::TrainStep, request, &response),
              GrpcStatusIs(grpc::INVALID_ARGUMENT, HasSubstr("request_id 'same'")));
  EXPECT_EQ(server.Get("bn").version(), 2);
}

TEST(BadInput, DenormalizeNeedsAnInverse) {
  TestServer server;
  v1::CreateLayerRequest create;
  create.set_name("bn");
  create.mutable_config()->set_num_channels(2);
  for (const double gamma : {1.0, 0.0}) {
    create.mutable_initial_state()->add_gamma(gamma);
    create.mutable_initial_state()->add_beta(0);
  }
  v1::CreateLayerResponse created;
  ASSERT_THAT(Call(server.layers(), &Layers::CreateLayer, create, &created), GrpcIsOk());
  v1::DenormalizeRequest request;
  request.set_layer("bn");
  *request.mutable_y() = GoodX();
  v1::DenormalizeResponse response;
  EXPECT_THAT(Call(server.normalization(), &Normalization::Denormalize, request, &response),
              GrpcStatusIs(grpc::FAILED_PRECONDITION, HasSubstr("gamma[1]")));
}

TEST(BadInput, AMessageOverTheLimitIsRefusedAndTheConnectionLives) {
  app::ServerOptions options = TestOptions();
  options.max_message_bytes = 64 << 10;
  TestServer server(options);
  server.Create("bn", 2);
  v1::TrainStepRequest request;
  request.set_layer("bn");
  *request.mutable_x() = MakeTensor(std::vector<int64_t>{4096, 2}, SomeValues(8192));
  ASSERT_GT(request.ByteSizeLong(), 64U << 10);
  v1::TrainStepResponse response;
  EXPECT_THAT(Call(server.normalization(), &Normalization::TrainStep, request, &response),
              GrpcStatusIs(grpc::RESOURCE_EXHAUSTED, HasSubstr("65536")));
  EXPECT_EQ(server.Get("bn").version(), 1);
  *request.mutable_x() = GoodX();
  EXPECT_THAT(Call(server.normalization(), &Normalization::TrainStep, request, &response), GrpcIsOk());
}

}  // namespace
}  // namespace normd::tests
