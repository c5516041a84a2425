// NormalizationService over the wire, against float64 formulas written here (docs/batch_norm.md has the same ones).

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "tests/integration/test_server.h"

namespace normd::tests {
namespace {

using ::testing::DoubleNear;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pointwise;
using ::testing::SizeIs;

using NormalizationStub = v1::NormalizationService::Stub;

constexpr double kEps = 1e-5;
constexpr double kUpdateWeight = 0.1;

// Batch normalization of an (outer, C, inner) view in the most direct words.
struct Reference {
  Reference(int64_t outer_extent, int64_t channels, int64_t inner_extent, const std::vector<double>& x)
      : outer(outer_extent), c_extent(channels), inner(inner_extent), n(static_cast<double>(outer * inner)) {
    mean = PerChannel([&](size_t i) { return x[i]; });
    for (double& value : mean) value /= n;
    var = PerChannel([&](size_t i) { return std::pow(x[i] - mean[Channel(i)], 2); });
    for (double& value : var) value /= n;
    for (size_t i = 0; i < x.size(); ++i) x_hat.push_back((x[i] - mean[Channel(i)]) / Std(Channel(i)));
  }
  size_t Channel(size_t i) const { return i / static_cast<size_t>(inner) % static_cast<size_t>(c_extent); }
  double Std(size_t c) const { return std::sqrt(var[c] + kEps); }
  template <typename F>
  std::vector<double> PerChannel(F value) const {
    std::vector<double> sums(static_cast<size_t>(c_extent));
    for (size_t i = 0; i < static_cast<size_t>(outer * c_extent * inner); ++i) sums[Channel(i)] += value(i);
    return sums;
  }

  // The gradient by x in training mode, where gamma is 1.
  std::vector<double> Dx(const std::vector<double>& dy, const std::vector<double>& dgamma,
                         const std::vector<double>& dbeta) const {
    std::vector<double> dx;
    for (size_t i = 0; i < dy.size(); ++i) {
      const size_t c = Channel(i);
      dx.push_back((dy[i] - dbeta[c] / n - x_hat[i] * dgamma[c] / n) / Std(c));
    }
    return dx;
  }

  int64_t outer;
  int64_t c_extent;
  int64_t inner;
  double n;
  std::vector<double> mean;
  std::vector<double> var;
  std::vector<double> x_hat;
};

class NormalizationServiceTest : public ::testing::Test {
 protected:
  v1::TrainStepResponse Train(const v1::TrainStepRequest& request) {
    v1::TrainStepResponse response;
    EXPECT_THAT(Call(stub_, &NormalizationStub::TrainStep, request, &response), GrpcIsOk());
    return response;
  }

  TestServer server_;
  NormalizationStub& stub_ = server_.normalization();
};

struct ShapeCase {
  const char* name;
  std::vector<int64_t> shape;
  v1::Layout layout;
  int64_t outer, num_channels, inner;
};

TEST_F(NormalizationServiceTest, TrainStepInEveryLayout) {
  const ShapeCase cases[] = {
      {"NC", {6, 3}, v1::LAYOUT_UNSPECIFIED, 6, 3, 1},
      {"NCL", {4, 3, 5}, v1::LAYOUT_CHANNELS_FIRST, 4, 3, 5},
      {"NCHW", {2, 3, 4, 5}, v1::LAYOUT_CHANNELS_FIRST, 2, 3, 20},
      {"NHWC", {2, 4, 5, 3}, v1::LAYOUT_CHANNELS_LAST, 40, 3, 1},
      {"NCDHW", {2, 3, 2, 3, 4}, v1::LAYOUT_CHANNELS_FIRST, 2, 3, 24},
      // Above 4 MiB of traffic, so that the compute thread has it.
      {"large", {16, 3, 160, 160}, v1::LAYOUT_CHANNELS_FIRST, 16, 3, 25600},
  };
  for (const ShapeCase& c : cases) {
    SCOPED_TRACE(c.name);
    server_.Create(c.name, c.num_channels);
    const std::vector<double> x = SomeValues(c.outer * c.num_channels * c.inner);
    const Reference want(c.outer, c.num_channels, c.inner, x);
    v1::TrainStepRequest request;
    request.set_layer(c.name);
    *request.mutable_x() = MakeTensor(c.shape, x, c.layout);
    const v1::TrainStepResponse got = Train(request);
    EXPECT_EQ(got.y().dtype(), v1::DATA_TYPE_FLOAT64);
    EXPECT_THAT(got.y().shape(), ::testing::ElementsAreArray(c.shape));
    EXPECT_EQ(got.y().layout() == v1::LAYOUT_CHANNELS_LAST, c.layout == v1::LAYOUT_CHANNELS_LAST);
    EXPECT_THAT(Values<double>(got.y()), Pointwise(DoubleNear(1e-9), want.x_hat));
    EXPECT_THAT(got.batch_mean(), Pointwise(DoubleNear(1e-12), want.mean));
    EXPECT_THAT(got.batch_var(), Pointwise(DoubleNear(1e-12), want.var));
    EXPECT_EQ(got.version(), 2);
    EXPECT_EQ(got.num_batches_tracked(), 1);
    EXPECT_FALSE(got.replayed());

    const v1::Layer layer = server_.Get(c.name);
    EXPECT_EQ(layer.content_hash(), got.content_hash());
    for (int i = 0; i < 3; ++i) {
      const auto channel = static_cast<size_t>(i);
      EXPECT_NEAR(layer.state().running_mean(i), kUpdateWeight * want.mean[channel], 1e-12);
      EXPECT_NEAR(layer.state().running_var(i), 1 - kUpdateWeight + kUpdateWeight * want.var[channel], 1e-12);
      EXPECT_EQ(layer.state().sample_count(i), want.n);
    }
  }
}

TEST_F(NormalizationServiceTest, Float32TravelsAsFloat32) {
  server_.Create("bn", 2);
  v1::TrainStepRequest request;
  request.set_layer("bn");
  *request.mutable_x() = MakeTensor<float>({4, 2}, {1, 10, 2, 20, 3, 30, 4, 40});
  const v1::TrainStepResponse got = Train(request);
  EXPECT_THAT(got.batch_mean(), ElementsAre(2.5, 25));
  EXPECT_THAT(got.batch_var(), ElementsAre(1.25, 125));
  EXPECT_EQ(got.y().dtype(), v1::DATA_TYPE_FLOAT32);
  const std::vector<float> y = Values<float>(got.y());
  ASSERT_THAT(y, SizeIs(8));
  for (size_t i = 0; i < 8; ++i) {
    const double x = i % 2 == 0 ? static_cast<double>(i / 2 + 1) : 10.0 * static_cast<double>(i / 2 + 1);
    const double want = i % 2 == 0 ? (x - 2.5) / std::sqrt(1.25 + kEps) : (x - 25) / std::sqrt(125 + kEps);
    EXPECT_NEAR(y[i], want, 4 * 0x1p-24 * std::max(1.0, std::abs(want)));
  }
}

// A 16-bit type by the widths of its fields, as IEEE 754 (3.4) reads them.
struct Format {
  v1::DataType dtype;
  int fraction_bits;
  int bias;

  double Value(uint16_t bits) const {
    const int one = 1 << fraction_bits;
    const int exponent = (bits & 0x7FFF) >> fraction_bits;
    const int significand = bits % one + (exponent == 0 ? 0 : one);
    return std::ldexp((bits & 0x8000) != 0 ? -significand : significand, std::max(exponent, 1) - bias - fraction_bits);
  }
  // What rounding `value` may change: half a unit in the last place, and what rounding to float before that adds.
  double Rounding(double value) const {
    const int exponent = value == 0 ? 1 - bias : std::max(std::ilogb(value), 1 - bias);
    return std::ldexp(0.5, exponent - fraction_bits) + std::ldexp(std::abs(value), -24) + 1e-14;
  }
  // Bits of `count` numbers between 1/4 and 8, of both signs.
  std::vector<uint16_t> SomeBits(size_t count, uint32_t seed) const {
    std::mt19937 generator(seed);
    std::vector<uint16_t> bits(count);
    for (uint16_t& value : bits) {
      const auto random = static_cast<uint32_t>(generator());
      const uint32_t exponent = static_cast<uint32_t>(bias - 2) + random % 5;
      value = static_cast<uint16_t>((random & 0x8000U) | exponent << fraction_bits |
                                    (random >> 16) % (1U << fraction_bits));
    }
    return bits;
  }
  v1::Tensor Make(const std::vector<int64_t>& shape, const std::vector<uint16_t>& bits) const {
    v1::Tensor tensor;
    tensor.set_dtype(dtype);
    tensor.mutable_shape()->Assign(shape.begin(), shape.end());
    tensor.set_data(bits.data(), bits.size() * sizeof(uint16_t));
    return tensor;
  }
  std::vector<double> Decode(const std::vector<uint16_t>& bits) const {
    std::vector<double> values;
    values.reserve(bits.size());
    for (const uint16_t value : bits) values.push_back(Value(value));
    return values;
  }
  // The numbers of an answer, which must be of this type.
  std::vector<double> Decode(const v1::Tensor& tensor) const {
    EXPECT_EQ(tensor.dtype(), dtype);
    return Decode(Values<uint16_t>(tensor));
  }
  void ExpectRounded(const std::vector<double>& got, const std::vector<double>& want) const {
    ASSERT_THAT(got, SizeIs(want.size()));
    for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got[i], want[i], Rounding(want[i])) << i;
  }
};

TEST_F(NormalizationServiceTest, SixteenBitTypesAreRoundedOnce) {
  for (const Format& format : {Format{v1::DATA_TYPE_FLOAT16, 10, 15}, Format{v1::DATA_TYPE_BFLOAT16, 7, 127}}) {
    const std::string name = format.dtype == v1::DATA_TYPE_FLOAT16 ? "f16" : "bf16";
    SCOPED_TRACE(name);
    const std::vector<int64_t> shape = {8, 3, 7};
    constexpr size_t kCount = 168;
    const std::vector<uint16_t> x_bits = format.SomeBits(kCount, 1);
    const std::vector<uint16_t> dy_bits = format.SomeBits(kCount, 2);
    const std::vector<double> x = format.Decode(x_bits);
    const std::vector<double> dy = format.Decode(dy_bits);
    const Reference want(8, 3, 7, x);

    server_.Create(name, 3);
    v1::TrainStepRequest train;
    train.set_layer(name);
    *train.mutable_x() = format.Make(shape, x_bits);
    const v1::TrainStepResponse trained = Train(train);
    format.ExpectRounded(format.Decode(trained.y()), want.x_hat);
    EXPECT_THAT(trained.batch_mean(), Pointwise(DoubleNear(1e-12), want.mean));
    EXPECT_THAT(trained.batch_var(), Pointwise(DoubleNear(1e-12), want.var));

    std::vector<double> running_mean, running_std;
    for (size_t c = 0; c < 3; ++c) {
      running_mean.push_back(kUpdateWeight * want.mean[c]);
      running_std.push_back(std::sqrt(1 - kUpdateWeight + kUpdateWeight * want.var[c] + kEps));
    }
    v1::InferRequest infer;
    infer.set_layer(name);
    *infer.mutable_x() = train.x();
    v1::InferResponse inferred;
    ASSERT_THAT(Call(stub_, &NormalizationStub::Infer, infer, &inferred), GrpcIsOk());
    std::vector<double> y;
    for (size_t i = 0; i < x.size(); ++i) {
      y.push_back((x[i] - running_mean[want.Channel(i)]) / running_std[want.Channel(i)]);
    }
    format.ExpectRounded(format.Decode(inferred.y()), y);

    v1::DenormalizeRequest denormalize;
    denormalize.set_layer(name);
    *denormalize.mutable_y() = inferred.y();
    v1::DenormalizeResponse denormalized;
    ASSERT_THAT(Call(stub_, &NormalizationStub::Denormalize, denormalize, &denormalized), GrpcIsOk());
    std::vector<double> back = format.Decode(inferred.y());
    for (size_t i = 0; i < x.size(); ++i) {
      back[i] = back[i] * running_std[want.Channel(i)] + running_mean[want.Channel(i)];
    }
    format.ExpectRounded(format.Decode(denormalized.x()), back);

    v1::BackwardRequest backward;
    backward.set_layer(name);
    *backward.mutable_x() = train.x();
    *backward.mutable_dy() = format.Make(shape, dy_bits);
    *backward.mutable_batch_mean() = trained.batch_mean();
    *backward.mutable_batch_var() = trained.batch_var();
    v1::BackwardResponse gradients;
    ASSERT_THAT(Call(stub_, &NormalizationStub::Backward, backward, &gradients), GrpcIsOk());
    const std::vector<double> dbeta = want.PerChannel([&](size_t i) { return dy[i]; });
    const std::vector<double> dgamma = want.PerChannel([&](size_t i) { return dy[i] * want.x_hat[i]; });
    EXPECT_THAT(gradients.dbeta(), Pointwise(DoubleNear(1e-11), dbeta));
    EXPECT_THAT(gradients.dgamma(), Pointwise(DoubleNear(1e-11), dgamma));
    format.ExpectRounded(format.Decode(gradients.dx()), want.Dx(dy, dgamma, dbeta));
  }
}

TEST_F(NormalizationServiceTest, TrainStepOptions) {
  server_.Create("bn", 2);
  v1::TrainStepRequest request;
  request.set_layer("bn");
  *request.mutable_x() = MakeTensor<double>({2, 2}, {1, 2, 3, 6});

  request.set_skip_update(true);
  v1::TrainStepResponse got = Train(request);
  EXPECT_EQ(got.version(), 1);
  EXPECT_THAT(got.batch_mean(), ElementsAre(2, 4));
  EXPECT_EQ(server_.Get("bn").version(), 1);

  request.set_skip_update(false);
  request.set_omit_output(true);
  for (const double value : {2.0, 3.0}) {
    request.add_gamma(value);
    request.add_beta(-value);
  }
  got = Train(request);
  EXPECT_FALSE(got.has_y());
  EXPECT_EQ(got.version(), 2);
  const v1::LayerState state = server_.Get("bn").state();
  EXPECT_THAT(state.gamma(), ElementsAre(2, 3));
  EXPECT_THAT(state.beta(), ElementsAre(-2, -3));
}

TEST_F(NormalizationServiceTest, ARetriedTrainStepFoldsNothingTwice) {
  server_.Create("bn", 2);
  v1::TrainStepRequest request;
  request.set_layer("bn");
  request.set_request_id("step-1");
  *request.mutable_x() = MakeTensor<double>({2, 2}, {1, 2, 3, 6});
  const v1::TrainStepResponse first = Train(request);
  const v1::TrainStepResponse second = Train(request);
  EXPECT_FALSE(first.replayed());
  EXPECT_TRUE(second.replayed());
  EXPECT_EQ(second.version(), first.version());
  EXPECT_EQ(second.content_hash(), first.content_hash());
  EXPECT_EQ(second.y().data(), first.y().data());
  EXPECT_EQ(server_.Get("bn").state().num_batches_tracked(), 1);
}

TEST_F(NormalizationServiceTest, SkippedChannelsAreNamed) {
  v1::CreateLayerRequest create;
  create.set_name("bn");
  create.mutable_config()->set_num_channels(3);
  create.mutable_config()->set_non_finite_policy(v1::NON_FINITE_POLICY_SKIP_CHANNEL);
  v1::CreateLayerResponse created;
  ASSERT_THAT(Call(server_.layers(), &v1::LayerService::Stub::CreateLayer, create, &created), GrpcIsOk());
  const double nan = std::numeric_limits<double>::quiet_NaN();
  v1::TrainStepRequest request;
  request.set_layer("bn");
  *request.mutable_x() = MakeTensor<double>({2, 3}, {1, nan, 3, 5, 6, 7});
  const v1::TrainStepResponse got = Train(request);
  EXPECT_THAT(got.skipped_channels(), ElementsAre(1));
  EXPECT_TRUE(std::isnan(got.batch_mean(1)));
  EXPECT_EQ(got.batch_mean(0), 3);
  EXPECT_THAT(server_.Get("bn").state().skipped_batches(), ElementsAre(0, 1, 0));
}

TEST_F(NormalizationServiceTest, InferAndBack) {
  v1::CreateLayerRequest create;
  create.set_name("bn");
  create.mutable_config()->set_num_channels(2);
  for (const auto& [mean, var, gamma, beta] : std::vector<std::array<double, 4>>{{1, 4, 2, 0.5}, {-3, 9, -1, 10}}) {
    create.mutable_initial_state()->add_running_mean(mean);
    create.mutable_initial_state()->add_running_var(var);
    create.mutable_initial_state()->add_gamma(gamma);
    create.mutable_initial_state()->add_beta(beta);
  }
  v1::CreateLayerResponse created;
  ASSERT_THAT(Call(server_.layers(), &v1::LayerService::Stub::CreateLayer, create, &created), GrpcIsOk());

  const std::vector<double> x = {3, 0, 1, -3, -5, 6};
  const std::vector<double> y = {2 * 2 / std::sqrt(4 + kEps) + 0.5,  -3 / std::sqrt(9 + kEps) + 10, 0.5, 10,
                                 2 * -6 / std::sqrt(4 + kEps) + 0.5, -9 / std::sqrt(9 + kEps) + 10};
  v1::InferRequest infer;
  infer.set_layer("bn");
  infer.set_version(1);
  *infer.mutable_x() = MakeTensor<double>({3, 2}, x);
  v1::InferResponse inferred;
  ASSERT_THAT(Call(stub_, &NormalizationStub::Infer, infer, &inferred), GrpcIsOk());
  EXPECT_THAT(Values<double>(inferred.y()), Pointwise(DoubleNear(1e-14), y));
  EXPECT_EQ(inferred.version(), 1);
  EXPECT_EQ(inferred.content_hash(), created.layer().content_hash());

  v1::DenormalizeRequest denormalize;
  denormalize.set_layer("bn");
  *denormalize.mutable_y() = inferred.y();
  v1::DenormalizeResponse denormalized;
  ASSERT_THAT(Call(stub_, &NormalizationStub::Denormalize, denormalize, &denormalized), GrpcIsOk());
  EXPECT_THAT(Values<double>(denormalized.x()), Pointwise(DoubleNear(1e-13), x));
  EXPECT_EQ(denormalized.version(), 1);
  EXPECT_EQ(denormalized.content_hash(), created.layer().content_hash());
}

TEST_F(NormalizationServiceTest, BackwardInTrainingMode) {
  server_.Create("bn", 3);
  const std::vector<double> x = SomeValues(2 * 3 * 4, 1);
  const std::vector<double> dy = SomeValues(2 * 3 * 4, 2);
  const Reference forward(2, 3, 4, x);
  v1::TrainStepRequest train;
  train.set_layer("bn");
  *train.mutable_x() = MakeTensor<double>({2, 3, 4}, x);
  const v1::TrainStepResponse trained = Train(train);

  v1::BackwardRequest request;
  request.set_layer("bn");
  *request.mutable_x() = train.x();
  *request.mutable_dy() = MakeTensor<double>({2, 3, 4}, dy);
  *request.mutable_batch_mean() = trained.batch_mean();
  *request.mutable_batch_var() = trained.batch_var();
  v1::BackwardResponse response;
  ASSERT_THAT(Call(stub_, &NormalizationStub::Backward, request, &response), GrpcIsOk());

  const std::vector<double> dbeta = forward.PerChannel([&](size_t i) { return dy[i]; });
  const std::vector<double> dgamma = forward.PerChannel([&](size_t i) { return dy[i] * forward.x_hat[i]; });
  EXPECT_THAT(response.dbeta(), Pointwise(DoubleNear(1e-12), dbeta));
  EXPECT_THAT(response.dgamma(), Pointwise(DoubleNear(1e-9), dgamma));
  EXPECT_THAT(Values<double>(response.dx()), Pointwise(DoubleNear(1e-9), forward.Dx(dy, dgamma, dbeta)));
  EXPECT_THAT(response.gamma(), IsEmpty());
  EXPECT_EQ(response.version(), 2) << "only read";
}

TEST_F(NormalizationServiceTest, BackwardInFrozenModeWithOptimizers) {
  const std::vector<double> x = {1, 2, 3, 4, 5, 6};
  const std::vector<double> dy = {0.5, -1, 2, 1, 0.25, 3};
  const double inv_std = 1 / std::sqrt(1 + kEps);
  // Running mean 0 and variance 1, so x_hat = x * inv_std.
  const double dgamma[] = {(0.5 * 1 + 2 * 3 + 0.25 * 5) * inv_std, (-1 * 2 + 1 * 4 + 3 * 6) * inv_std};
  const double dbeta[] = {2.75, 3};

  v1::BackwardRequest request;
  request.set_mode(v1::BACKWARD_MODE_FROZEN);
  *request.mutable_x() = MakeTensor<double>({3, 2}, x);
  *request.mutable_dy() = MakeTensor<double>({3, 2}, dy);

  server_.Create("sgd", 2);
  request.set_layer("sgd");
  request.set_request_id("b1");
  request.mutable_sgd()->set_learning_rate(0.1);
  v1::BackwardResponse response;
  ASSERT_THAT(Call(stub_, &NormalizationStub::Backward, request, &response), GrpcIsOk());
  for (size_t i = 0; i < dy.size(); ++i) EXPECT_NEAR(Values<double>(response.dx())[i], dy[i] * inv_std, 1e-12);
  for (int c = 0; c < 2; ++c) {
    EXPECT_NEAR(response.dgamma(c), dgamma[c], 1e-12);
    EXPECT_NEAR(response.dbeta(c), dbeta[c], 1e-12);
    EXPECT_NEAR(response.gamma(c), 1 - 0.1 * dgamma[c], 1e-12);
    EXPECT_NEAR(response.beta(c), -0.1 * dbeta[c], 1e-12);
  }
  EXPECT_EQ(response.version(), 2);
  EXPECT_THAT(server_.Get("sgd").state().gamma(), ElementsAre(response.gamma(0), response.gamma(1)));
  v1::BackwardResponse again;
  ASSERT_THAT(Call(stub_, &NormalizationStub::Backward, request, &again), GrpcIsOk());
  EXPECT_TRUE(again.replayed());
  EXPECT_EQ(server_.Get("sgd").version(), 2);

  // The first step of Adam is learning_rate * g / (|g| + eps): its defaults must be the documented ones, not 0.
  server_.Create("adam", 2);
  request.set_layer("adam");
  request.set_omit_dx(true);
  request.mutable_adam()->set_learning_rate(0.1);
  ASSERT_THAT(Call(stub_, &NormalizationStub::Backward, request, &response), GrpcIsOk());
  EXPECT_FALSE(response.has_dx());
  for (int c = 0; c < 2; ++c) {
    EXPECT_NEAR(response.gamma(c), 1 - 0.1 * dgamma[c] / (std::abs(dgamma[c]) + 1e-8), 1e-12);
    EXPECT_NEAR(response.beta(c), -0.1 * dbeta[c] / (std::abs(dbeta[c]) + 1e-8), 1e-12);
  }
}

}  // namespace
}  // namespace normd::tests
