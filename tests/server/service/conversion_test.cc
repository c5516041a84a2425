// What the tests over the wire (tests/integration) cannot see of the conversions.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <iterator>

#include "absl/time/time.h"
#include "server/service/layer_conversion.h"
#include "server/service/page_token.h"
#include "server/service/status_conversion.h"
#include "server/service/tensor_conversion.h"
#include "tests/status_matchers.h"

namespace normd::service {
namespace {

using ::normd::tests::IsOk;
using ::normd::tests::StatusIs;

TEST(PageToken, GoesThereAndBack) {
  for (const char* name : {"a", "resnet50.layer1.0.bn1", "x-_Y"}) {
    const std::string token = EncodePageToken(name);
    EXPECT_THAT(token, ::testing::MatchesRegex("[A-Za-z0-9_-]+"));
    NORMD_ASSERT_OK_AND_ASSIGN(const std::string back, DecodePageToken(token, ""));
    EXPECT_EQ(back, name);
  }
  EXPECT_EQ(EncodePageToken(""), "");
  EXPECT_EQ(*DecodePageToken("", "prefix"), "");
}

TEST(PageToken, RefusesWhatItDidNotGiveOut) {
  for (const char* token : {"%", "a", "YSBi" /* "a b" */, "Li4" /* ".." */}) {
    EXPECT_THAT(DecodePageToken(token, ""), StatusIs(absl::StatusCode::kInvalidArgument, "page_token")) << token;
  }
  EXPECT_THAT(DecodePageToken(EncodePageToken("a.b"), "b"), StatusIs(absl::StatusCode::kInvalidArgument, "prefix"));
}

TEST(Status, KeepsEveryCode) {
  for (int code = 0; code <= 16; ++code) {
    const absl::Status status(static_cast<absl::StatusCode>(code), "text");
    EXPECT_EQ(ToGrpcStatus(status).error_code(), code);
    EXPECT_EQ(ToGrpcStatus(status).error_message(), code == 0 ? "" : "text");
  }
}

TEST(Timestamps, RoundDownAlsoBefore1970) {
  layer::LayerSnapshot snapshot;
  snapshot.config = std::make_shared<layer::LayerConfig>();
  snapshot.create_time = absl::FromUnixNanos(1'500'000'000'123'456'789);
  snapshot.update_time = absl::FromUnixNanos(-1);
  v1::Layer proto;
  ToProto(snapshot, v1::LAYER_VIEW_CONFIG, &proto);
  EXPECT_EQ(proto.create_time().seconds(), 1'500'000'000);
  EXPECT_EQ(proto.create_time().nanos(), 123'456'789);
  EXPECT_EQ(proto.update_time().seconds(), -1);
  EXPECT_EQ(proto.update_time().nanos(), 999'999'999);
}

TEST(Tensor, EveryElementTypeGoesThereAndBack) {
  const std::string data = "data";
  const struct {
    v1::DataType wire;
    layer::DType dtype;
  } cases[] = {{v1::DATA_TYPE_FLOAT32, layer::DType::kFloat32},
               {v1::DATA_TYPE_FLOAT64, layer::DType::kFloat64},
               {v1::DATA_TYPE_FLOAT16, layer::DType::kFloat16},
               {v1::DATA_TYPE_BFLOAT16, layer::DType::kBFloat16}};
  ASSERT_EQ(std::size(cases), static_cast<size_t>(v1::DataType_ARRAYSIZE - 1)) << "all but UNSPECIFIED";
  for (const auto& c : cases) {
    v1::Tensor tensor;
    tensor.set_dtype(c.wire);
    tensor.add_shape(3);
    tensor.add_shape(4);
    tensor.set_layout(v1::LAYOUT_CHANNELS_LAST);
    NORMD_ASSERT_OK_AND_ASSIGN(const layer::TensorView view, ToTensorView("bn", "x", tensor, data));
    EXPECT_EQ(view.dtype, c.dtype) << v1::DataType_Name(c.wire);
    EXPECT_EQ(view.data.size(), 4U);
    const v1::Tensor back = ToProto(view);
    EXPECT_EQ(back.dtype(), c.wire) << v1::DataType_Name(c.wire);
    EXPECT_EQ(back.layout(), v1::LAYOUT_CHANNELS_LAST);
    EXPECT_THAT(back.shape(), ::testing::ElementsAre(3, 4));
    EXPECT_EQ(back.data(), "");
  }
}

TEST(Status, TheDelayTravelsAsRetryInfo) {
  const grpc::Status status = ToGrpcStatus(RetryLaterError("no room", absl::Milliseconds(1250)));
  EXPECT_EQ(status.error_code(), grpc::RESOURCE_EXHAUSTED);
  EXPECT_EQ(status.error_message(), "no room");
  // google.rpc.Status with a google.rpc.RetryInfo, written by hand: code 8, the message, and 1 s 250000000 ns.
  const std::string type = "type.googleapis.com/google.rpc.RetryInfo";
  const std::string duration = std::string("\x0a\x07\x08\x01\x10\x80\xe5\x9a\x77", 9);
  const std::string any = "\x0a" + std::string(1, static_cast<char>(type.size())) + type + "\x12" +
                          std::string(1, static_cast<char>(duration.size())) + duration;
  EXPECT_EQ(status.error_details(),
            "\x08\x08\x12\x07no room\x1a" + std::string(1, static_cast<char>(any.size())) + any);
  EXPECT_EQ(ToGrpcStatus(absl::ResourceExhaustedError("no")).error_details(), "");
}

TEST(Config, EveryEnumValueGoesThereAndBack) {
  for (int averaging = 1; averaging <= 4; ++averaging) {
    for (int rest = 1; rest <= 3; ++rest) {
      v1::LayerConfig wire;
      wire.set_num_channels(3);
      wire.set_averaging(static_cast<v1::Averaging>(averaging));
      wire.set_running_var_estimator(static_cast<v1::VarianceEstimator>(rest % 2 + 1));
      wire.set_normalize_training_with(static_cast<v1::TrainingStatistics>(rest));
      wire.set_non_finite_policy(static_cast<v1::NonFinitePolicy>(rest));
      NORMD_ASSERT_OK_AND_ASSIGN(const layer::LayerConfig config, MergeConfig("bn", "", wire));
      const v1::LayerConfig back = ToProto(config);
      EXPECT_EQ(back.averaging(), wire.averaging());
      EXPECT_EQ(back.running_var_estimator(), wire.running_var_estimator());
      EXPECT_EQ(back.normalize_training_with(), wire.normalize_training_with());
      EXPECT_EQ(back.non_finite_policy(), wire.non_finite_policy());
      EXPECT_EQ(back.has_update_weight(), averaging <= 2);
    }
  }
}

}  // namespace
}  // namespace normd::service
