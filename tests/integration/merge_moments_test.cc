// MergeMoments over the wire. What a merge does to a layer: tests/server/registry/merge_moments_test.cc.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

#include "tests/integration/test_server.h"

namespace normd::tests {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

using NormalizationStub = v1::NormalizationService::Stub;

// Two channels: {1, 3} and {10, 10}.
v1::MergeMomentsRequest Request(const std::string& layer) {
  v1::MergeMomentsRequest request;
  request.set_layer(layer);
  request.mutable_moments()->add_count(2);
  for (const double mean : {2, 10}) request.mutable_moments()->add_mean(mean);
  for (const double m2 : {2, 0}) request.mutable_moments()->add_m2(m2);
  return request;
}

class MergeMomentsServiceTest : public ::testing::Test {
 protected:
  grpc::Status Merge(const v1::MergeMomentsRequest& request, v1::MergeMomentsResponse* response) {
    return Call(server_.normalization(), &NormalizationStub::MergeMoments, request, response);
  }

  TestServer server_;
};

TEST_F(MergeMomentsServiceTest, AnswersWithTheMergedStatistics) {
  server_.Create("obs", 2, "rl_observation");
  v1::MergeMomentsResponse got;
  ASSERT_THAT(Merge(Request("obs"), &got), GrpcIsOk());
  EXPECT_EQ(got.version(), 2);
  EXPECT_THAT(got.running_mean(), ElementsAre(2, 10));
  EXPECT_THAT(got.running_var(), ElementsAre(1, 0));
  EXPECT_THAT(got.sample_count(), ElementsAre(2, 2));
  EXPECT_EQ(got.num_batches_tracked(), 1);
  EXPECT_FALSE(got.replayed());

  // {5} beside a channel that sits out.
  v1::MergeMomentsRequest more;
  more.set_layer("obs");
  v1::Moments* moments = more.mutable_moments();
  for (const int count : {1, 0}) moments->add_count(count);
  for (auto* list : {moments->mutable_mean(), moments->mutable_min(), moments->mutable_max()}) {
    list->Add(5);
    list->Add(0);
  }
  for (int c = 0; c < 2; ++c) moments->add_m2(0);
  for (int c = 0; c < 2; ++c) moments->add_non_finite_count(0);
  ASSERT_THAT(Merge(more, &got), GrpcIsOk());
  EXPECT_THAT(got.running_mean(), ElementsAre(3, 10));
  EXPECT_DOUBLE_EQ(got.running_var(0), 8.0 / 3);
  EXPECT_THAT(got.sample_count(), ElementsAre(3, 2));

  const v1::Layer layer = server_.Get("obs");
  EXPECT_EQ(layer.version(), got.version());
  EXPECT_EQ(layer.content_hash(), got.content_hash());
  EXPECT_THAT(layer.state().running_mean(), ElementsAre(3, 10));
  EXPECT_THAT(layer.state().skipped_batches(), ElementsAre(0, 1));
}

TEST_F(MergeMomentsServiceTest, RepetitionsAnswerThePresentVersion) {
  server_.Create("obs", 2, "rl_observation");
  v1::MergeMomentsRequest request = Request("obs");
  request.set_contributor("actor");
  request.set_sequence(1);
  request.set_request_id("first");
  v1::MergeMomentsResponse first;
  ASSERT_THAT(Merge(request, &first), GrpcIsOk());
  v1::MergeMomentsResponse other;
  ASSERT_THAT(Merge(Request("obs"), &other), GrpcIsOk());

  for (const std::string id : {"first", "second", ""}) {
    SCOPED_TRACE(id);
    request.set_request_id(id);
    v1::MergeMomentsResponse again;
    ASSERT_THAT(Merge(request, &again), GrpcIsOk());
    EXPECT_TRUE(again.replayed());
    EXPECT_EQ(again.version(), 3);
    EXPECT_EQ(again.content_hash(), other.content_hash());
    EXPECT_THAT(again.sample_count(), ElementsAre(4, 4));
  }
}

TEST_F(MergeMomentsServiceTest, ManyActorsShareALayer) {
  constexpr int kActors = 6;
  constexpr int kMerges = 30;
  server_.Create("obs", 1, "rl_observation");
  std::vector<std::thread> actors;
  actors.reserve(kActors);
  for (int a = 0; a < kActors; ++a) {
    actors.emplace_back([&, a] {
      for (int i = 1; i <= kMerges; ++i) {
        v1::MergeMomentsRequest request;
        request.set_layer("obs");
        request.mutable_moments()->add_count(1);
        request.mutable_moments()->add_mean(i);
        request.mutable_moments()->add_m2(0);
        request.set_contributor("actor-" + std::to_string(a));
        request.set_sequence(i);
        for (int attempt = 0; attempt < 2; ++attempt) {
          v1::MergeMomentsResponse response;
          EXPECT_THAT(Merge(request, &response), GrpcIsOk());
        }
      }
    });
  }
  for (std::thread& actor : actors) actor.join();
  // Of 1 to m the mean is (m + 1) / 2 and the variance (m^2 - 1) / 12.
  const v1::Layer layer = server_.Get("obs");
  EXPECT_THAT(layer.state().sample_count(), ElementsAre(kActors * kMerges));
  EXPECT_NEAR(layer.state().running_mean(0), (kMerges + 1) / 2.0, 1e-12);
  EXPECT_NEAR(layer.state().running_var(0), (kMerges * kMerges - 1) / 12.0, 1e-10);
  EXPECT_EQ(layer.version(), 1 + kActors * kMerges);
}

TEST_F(MergeMomentsServiceTest, ErrorsChangeNothing) {
  server_.Create("obs", 2, "rl_observation");
  v1::MergeMomentsResponse response;
  EXPECT_THAT(Merge(Request("nobody"), &response),
              GrpcStatusIs(grpc::StatusCode::NOT_FOUND, "layer 'nobody': does not exist"));
  v1::MergeMomentsRequest request;
  request.set_layer("obs");
  EXPECT_THAT(Merge(request, &response),
              GrpcStatusIs(grpc::StatusCode::INVALID_ARGUMENT,
                           "layer 'obs': moments.count has 0 entries, want 1 or 2 (num_channels)"));
  request = Request("obs");
  request.set_sequence(1);
  EXPECT_THAT(Merge(request, &response),
              GrpcStatusIs(grpc::StatusCode::INVALID_ARGUMENT, HasSubstr("without a contributor")));
  request = Request("obs");
  request.set_request_id(std::string(129, 'x'));
  EXPECT_THAT(Merge(request, &response), GrpcStatusIs(grpc::StatusCode::INVALID_ARGUMENT, HasSubstr("request_id")));
  const v1::Layer layer = server_.Get("obs");
  EXPECT_EQ(layer.version(), 1);
  EXPECT_THAT(layer.state().skipped_batches(), IsEmpty());
}

}  // namespace
}  // namespace normd::tests
