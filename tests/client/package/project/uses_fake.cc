// A unit test outside of normd's tree, with what normd installs for it.
#include <gtest/gtest.h>

#include <vector>

#include "normd/client.h"
#include "normd/testing/fake_server.h"

TEST(UsesFakeTest, TrainsThroughAFailure) {
  normd::testing::FakeServer server;
  const auto client = normd::Client::Connect(server.target());
  normd::LayerSpec spec;
  spec.name = "a";
  spec.config.num_channels = 1;
  ASSERT_TRUE(client->CreateLayer(spec).ok());
  server.train_step.FailNext(absl::UnavailableError("draining"));
  const std::vector<float> x = {1, 3};
  const auto step = client->TrainStep("a", normd::TensorView(x, {2, 1}));
  ASSERT_TRUE(step.ok()) << step.status();
  EXPECT_EQ(step->batch_mean, std::vector<double>{2});
  EXPECT_EQ(server.train_step.requests().size(), 2u);
}
