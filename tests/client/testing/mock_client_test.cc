// How a program that takes a normd::Client is tested with MockClient.

#include "normd/testing/mock_client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace my_service {
namespace {

using ::testing::_;
using ::testing::Eq;
using ::testing::Field;
using ::testing::InSequence;
using ::testing::Return;

// The code under test: normalizes a row with the newest version, or with the last one that it knows when that is what
// the server still keeps.
class Scorer {
 public:
  explicit Scorer(normd::Client* client) : client_(client) {}

  absl::StatusOr<std::vector<float>> Normalize(const std::vector<float>& row) {
    const normd::TensorView x(row, {1, static_cast<int64_t>(row.size())});
    normd::InferOptions options;
    options.version = version_;
    absl::StatusOr<normd::InferResult> result = client_->Infer("encoder.bn1", x, options);
    if (absl::IsFailedPrecondition(result.status())) {
      options.version = 0;
      result = client_->Infer("encoder.bn1", x, options);
    }
    if (!result.ok()) return result.status();
    version_ = result->version;
    const absl::Span<const float> y = result->output.values<float>();
    return std::vector<float>(y.begin(), y.end());
  }

 private:
  normd::Client* const client_;
  int64_t version_ = 0;
};

normd::InferResult Answer(int64_t version, const std::vector<float>& y) {
  normd::InferResult result;
  result.version = version;
  result.output =
      normd::Tensor(normd::DType::kFloat32, {1, static_cast<int64_t>(y.size())}, normd::Layout::kChannelsFirst,
                    std::string(reinterpret_cast<const char*>(y.data()), y.size() * sizeof(float)));
  return result;
}

TEST(ScorerTest, PinsTheVersionUntilItIsGone) {
  normd::testing::MockClient client;
  const InSequence in_this_order;
  EXPECT_CALL(client, Infer(Eq("encoder.bn1"), _, Field(&normd::InferOptions::version, 0)))
      .WillOnce(Return(Answer(7, {1, 2})));
  EXPECT_CALL(client, Infer(Eq("encoder.bn1"), _, Field(&normd::InferOptions::version, 7)))
      .WillOnce(Return(absl::FailedPreconditionError("version 7 is no longer kept")));
  EXPECT_CALL(client, Infer(Eq("encoder.bn1"), _, Field(&normd::InferOptions::version, 0)))
      .WillOnce(Return(Answer(900, {3, 4})));

  Scorer scorer(&client);
  EXPECT_EQ(scorer.Normalize({5, 6}).value(), (std::vector<float>{1, 2}));
  EXPECT_EQ(scorer.Normalize({5, 6}).value(), (std::vector<float>{3, 4}));
}

TEST(ScorerTest, HandsAFailureOn) {
  normd::testing::MockClient client;
  EXPECT_CALL(client, Infer).WillOnce(Return(absl::NotFoundError("layer 'encoder.bn1' does not exist")));
  EXPECT_EQ(Scorer(&client).Normalize({5, 6}).status(), absl::NotFoundError("layer 'encoder.bn1' does not exist"));
}

// Every method of the interface has a mock, so this compiles: none is left abstract.
TEST(MockClientTest, MocksStreamsAndWatches) {
  normd::testing::MockClient mock;
  normd::Client& client = mock;
  auto watch = std::make_unique<normd::testing::MockLayerWatch>();
  EXPECT_CALL(*watch, Next).WillOnce(Return(absl::CancelledError("")));
  EXPECT_CALL(mock, Watch).WillOnce(Return(std::move(watch)));
  EXPECT_TRUE(absl::IsCancelled(client.Watch({})->Next().status()));

  auto stream = std::make_unique<normd::testing::MockStepStream>();
  EXPECT_CALL(*stream, Finish).WillOnce(Return(absl::UnavailableError("gone")));
  EXPECT_CALL(mock, OpenSteps).WillOnce(Return(std::move(stream)));
  EXPECT_TRUE(absl::IsUnavailable(client.OpenSteps()->Finish()));
}

}  // namespace
}  // namespace my_service
