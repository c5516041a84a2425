#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <csignal>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "normd/v1/admin_service.grpc.pb.h"
#include "normd/v1/snapshot_service.grpc.pb.h"
#include "tests/integration/test_server.h"
#include "tests/server/store/redis_server.h"

// Several servers on one Redis. Where a test says nothing else they ask for what the others do once a day: what they
// know of each other they learn when they need it.
namespace normd::tests {
namespace {

using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;
using Layers = v1::LayerService::Stub;
using Normalization = v1::NormalizationService::Stub;
using Snapshots = v1::SnapshotService::Stub;

constexpr char kOnceADay[] = "&poll-ms=86400000";

std::unique_ptr<TestServer> Replica(const RedisSet& redis, const std::string& more) {
  app::ServerOptions options = TestOptions();
  options.store.location = redis.Location("normd", more);
  return std::make_unique<TestServer>(options);
}

class ReplicasTest : public ::testing::Test {
 protected:
  void Start(int count, const std::string& more = kOnceADay) {
    redis_ = RedisSet::Standalone();
    for (int i = 0; i < count; ++i) servers_.push_back(Replica(*redis_, more));
  }
  TestServer& server(std::size_t i) { return *servers_[i]; }

  std::unique_ptr<RedisSet> redis_;
  std::vector<std::unique_ptr<TestServer>> servers_;
};

v1::TrainStepRequest StepOf(const std::string& layer, const std::vector<double>& values,
                            const std::string& request_id = "") {
  v1::TrainStepRequest request;
  request.set_layer(layer);
  *request.mutable_x() = MakeTensor({static_cast<int64_t>(values.size()), 1}, values);
  request.set_request_id(request_id);
  return request;
}

v1::TrainStepResponse Train(TestServer& server, const v1::TrainStepRequest& request) {
  v1::TrainStepResponse response;
  EXPECT_THAT(Call(server.normalization(), &Normalization::TrainStep, request, &response), GrpcIsOk());
  return response;
}

v1::MergeMomentsRequest MomentsOf(const std::string& layer, double value, int64_t sequence) {
  v1::MergeMomentsRequest request;
  request.set_layer(layer);
  request.mutable_moments()->add_count(1);
  request.mutable_moments()->add_mean(value);
  request.mutable_moments()->add_m2(0);
  request.set_contributor("actor");
  request.set_sequence(sequence);
  return request;
}

grpc::Status GetStatus(TestServer& server, const std::string& name) {
  v1::GetLayerRequest request;
  request.set_name(name);
  v1::GetLayerResponse response;
  return Call(server.layers(), &Layers::GetLayer, request, &response);
}

std::vector<std::string> ListNames(TestServer& server) {
  v1::ListLayersResponse response;
  EXPECT_THAT(Call(server.layers(), &Layers::ListLayers, v1::ListLayersRequest(), &response), GrpcIsOk());
  std::vector<std::string> names;
  for (const v1::Layer& layer : response.layers()) names.push_back(layer.name());
  return names;
}

grpc::Status Delete(TestServer& server, const std::string& name) {
  v1::DeleteLayerRequest request;
  request.set_name(name);
  v1::DeleteLayerResponse response;
  return Call(server.layers(), &Layers::DeleteLayer, request, &response);
}

grpc::Status Create(TestServer& server, const std::string& name, v1::Layer* layer) {
  v1::CreateLayerRequest request;
  request.set_name(name);
  request.set_preset("standard_scaler");
  request.mutable_config()->set_num_channels(1);
  v1::CreateLayerResponse response;
  grpc::Status status = Call(server.layers(), &Layers::CreateLayer, request, &response);
  *layer = response.layer();
  return status;
}

// What trainers were told.
class Acknowledged {
 public:
  void Add(double value, const v1::TrainStepResponse& step) {
    const std::lock_guard<std::mutex> lock(mutex_);
    values_.push_back(value);
    // One version never has two contents.
    const std::string& known = hashes_.emplace(step.version(), step.content_hash()).first->second;
    EXPECT_EQ(known, step.content_hash()) << "of version " << step.version();
    if (step.replayed()) return;
    EXPECT_TRUE(made_.insert(step.version()).second) << "two made version " << step.version();
  }
  std::size_t size() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return values_.size();
  }
  // `layer` counts each value once and nothing else.
  void ExpectCounted(const v1::Layer& layer) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto n = static_cast<double>(values_.size());
    double sum = 0;
    for (const double value : values_) sum += value;
    double squares = 0;
    for (const double value : values_) squares += (value - sum / n) * (value - sum / n);
    EXPECT_EQ(layer.state().num_batches_tracked(), static_cast<int64_t>(values_.size()));
    EXPECT_EQ(layer.state().sample_count(0), n);
    EXPECT_NEAR(layer.state().running_mean(0), sum / n, 1e-10 * (1 + std::abs(sum / n)));
    EXPECT_NEAR(layer.state().running_var(0), squares / n, 1e-10 * squares / n);
  }

 private:
  mutable std::mutex mutex_;
  std::vector<double> values_;
  std::map<int64_t, std::string> hashes_;
  std::set<int64_t> made_;
};

TEST_F(ReplicasTest, TrainersOfOneLayerAtThreeServersAreCountedOnce) {
  Start(3);
  server(0).Create("shared", 1, "standard_scaler");
  constexpr int kTrainers = 6;
  constexpr int kSteps = 60;
  Acknowledged acknowledged;
  std::vector<std::thread> trainers;
  for (int trainer = 0; trainer < kTrainers; ++trainer) {
    trainers.emplace_back([&, trainer] {
      for (int step = 0; step < kSteps; ++step) {
        const double value = trainer * 10 + step % 7;
        // Half of them stay with a server, so that it has changes of several callers at a time.
        const std::size_t at = static_cast<std::size_t>(trainer % 2 == 0 ? trainer + step : trainer) % servers_.size();
        acknowledged.Add(
            value, Train(server(at), StepOf("shared", {value}, absl::StrCat("trainer ", trainer, " step ", step))));
      }
    });
  }
  for (std::thread& trainer : trainers) trainer.join();
  EXPECT_EQ(acknowledged.size(), static_cast<std::size_t>(kTrainers * kSteps));
  // One that comes now reads it all.
  acknowledged.ExpectCounted(Replica(*redis_, "")->Get("shared"));
  // And one that was there learns it with its next change.
  acknowledged.Add(5, Train(server(2), StepOf("shared", {5})));
  acknowledged.ExpectCounted(server(2).Get("shared"));
  // They got in each other's way, which is no failure of the store.
  int64_t conflicts = 0;
  for (std::size_t i = 0; i < servers_.size(); ++i) {
    v1::GetStatisticsResponse response;
    const auto admin = v1::AdminService::NewStub(server(i).channel());
    ASSERT_THAT(Call(*admin, &v1::AdminService::Stub::GetStatistics, v1::GetStatisticsRequest(), &response),
                GrpcIsOk());
    conflicts += response.statistics().store().conflicts();
    EXPECT_EQ(response.statistics().store().errors(), 0);
  }
  EXPECT_GT(conflicts, 0);
}

TEST_F(ReplicasTest, ARetryAtAnotherServerIsAnsweredWithTheFirstOutcome) {
  Start(3);
  server(0).Create("a", 1, "standard_scaler");
  // So that they all know it.
  for (std::size_t i = 0; i < 3; ++i) Train(server(i), StepOf("a", {double(i)}, absl::StrCat("known ", i)));
  const v1::TrainStepResponse first = Train(server(0), StepOf("a", {7, 9}, "once"));
  EXPECT_FALSE(first.replayed());
  Train(server(2), StepOf("a", {8}, "later"));
  const v1::TrainStepResponse retry = Train(server(1), StepOf("a", {7, 9}, "once"));
  EXPECT_TRUE(retry.replayed());
  EXPECT_EQ(retry.version(), first.version());
  EXPECT_EQ(retry.content_hash(), first.content_hash());
  EXPECT_EQ(retry.num_batches_tracked(), first.num_batches_tracked());
  // The same id with another content is found out, too.
  v1::TrainStepResponse response;
  EXPECT_THAT(Call(server(1).normalization(), &Normalization::TrainStep, StepOf("a", {1}, "later"), &response),
              GrpcStatusIs(grpc::StatusCode::INVALID_ARGUMENT, HasSubstr("was used before for another call")));

  // All at the same time.
  for (int round = 0; round < 20; ++round) {
    std::atomic<int> applied = 0;
    std::vector<v1::TrainStepResponse> answers(3);
    std::vector<std::thread> callers;
    for (std::size_t i = 0; i < 3; ++i) {
      callers.emplace_back([&, i] {
        answers[i] = Train(server(i), StepOf("a", {1, 2}, absl::StrCat("race ", round)));
        if (!answers[i].replayed()) ++applied;
      });
    }
    for (std::thread& caller : callers) caller.join();
    EXPECT_EQ(applied, 1);
    for (const v1::TrainStepResponse& answer : answers) EXPECT_EQ(answer.version(), answers[0].version());
  }
  EXPECT_EQ(Replica(*redis_, "")->Get("a").state().num_batches_tracked(), 3 + 2 + 20);
}

TEST_F(ReplicasTest, ARepeatedSequenceOfAContributorIsFoldedInOnce) {
  Start(2);
  server(0).Create("a", 1, "standard_scaler");
  Train(server(1), StepOf("a", {1}));
  v1::MergeMomentsResponse response;
  for (std::size_t i = 0; i < 2; ++i) {
    ASSERT_THAT(Call(server(i).normalization(), &Normalization::MergeMoments, MomentsOf("a", 3, 1), &response),
                GrpcIsOk());
    EXPECT_EQ(response.replayed(), i == 1);
  }
  ASSERT_THAT(Call(server(1).normalization(), &Normalization::MergeMoments, MomentsOf("a", 5, 2), &response),
              GrpcIsOk());
  EXPECT_FALSE(response.replayed());
  EXPECT_EQ(server(1).Get("a").state().num_batches_tracked(), 3);
  EXPECT_EQ(server(1).Get("a").state().running_mean(0), 3);
}

TEST_F(ReplicasTest, LayersComeAndGoAtAnyServer) {
  Start(2);
  const v1::Layer made = server(0).Create("a", 1, "standard_scaler");
  // Nobody has told it.
  EXPECT_EQ(server(1).Get("a").uid(), made.uid());
  v1::Layer layer;
  server(0).Create("b", 1);
  EXPECT_THAT(Create(server(1), "b", &layer), GrpcStatusIs(grpc::StatusCode::ALREADY_EXISTS, HasSubstr("'b'")));
  EXPECT_THAT(ListNames(server(1)), UnorderedElementsAre("a", "b"));

  ASSERT_THAT(Delete(server(1), "a"), GrpcIsOk());
  EXPECT_THAT(Delete(server(0), "a"), GrpcStatusIs(grpc::StatusCode::NOT_FOUND, HasSubstr("'a'")));
  EXPECT_THAT(GetStatus(server(0), "a"), GrpcStatusIs(grpc::StatusCode::NOT_FOUND, HasSubstr("'a'")));
  // Another one of its name, whose predecessor one server still shows.
  server(0).Create("c", 1, "standard_scaler");
  EXPECT_EQ(server(1).Get("c").version(), 1);
  ASSERT_THAT(Delete(server(0), "c"), GrpcIsOk());
  ASSERT_THAT(Create(server(0), "c", &layer), GrpcIsOk());
  EXPECT_EQ(Train(server(1), StepOf("c", {4})).version(), 2);
  EXPECT_EQ(server(1).Get("c").uid(), layer.uid());
  ASSERT_THAT(Delete(server(0), "c"), GrpcIsOk());
  ASSERT_THAT(Create(server(1), "c", &layer), GrpcIsOk());

  // Many at once: of each name there is one.
  std::atomic<int> created = 0;
  std::vector<std::thread> callers;
  for (std::size_t i = 0; i < 2; ++i) {
    callers.emplace_back([&, i] {
      for (int n = 0; n < 30; ++n) {
        v1::Layer mine;
        const grpc::Status status = Create(server(i), absl::StrCat("many", n), &mine);
        created += status.ok() ? 1 : 0;
        if (!status.ok()) {
          EXPECT_THAT(status, GrpcStatusIs(grpc::StatusCode::ALREADY_EXISTS, HasSubstr("many")));
        }
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(created, 30);
  EXPECT_EQ(ListNames(*Replica(*redis_, "")).size(), 32);
}

TEST_F(ReplicasTest, WhatACallExpectsIsComparedWithWhatIsStored) {
  Start(2);
  server(0).Create("a", 1, "reference");
  EXPECT_EQ(server(1).Get("a").version(), 1);
  const v1::TrainStepResponse step = Train(server(0), StepOf("a", {1, 3}));
  v1::SetStateRequest set;
  set.set_name("a");
  set.set_expected_version(step.version());
  set.mutable_state()->add_running_mean(9);
  set.mutable_state()->add_running_var(4);
  v1::SetStateResponse response;
  ASSERT_THAT(Call(server(1).layers(), &Layers::SetState, set, &response), GrpcIsOk());
  EXPECT_EQ(response.layer().version(), 3);
  EXPECT_THAT(Call(server(0).layers(), &Layers::SetState, set, &response),
              GrpcStatusIs(grpc::StatusCode::ABORTED, HasSubstr("version")));
  // A version that this server has not heard of.
  Train(server(1), StepOf("a", {1}));
  v1::InferRequest infer;
  infer.set_layer("a");
  infer.set_version(4);
  *infer.mutable_x() = MakeTensor<double>({1, 1}, {9});
  v1::InferResponse inferred;
  ASSERT_THAT(Call(server(0).normalization(), &Normalization::Infer, infer, &inferred), GrpcIsOk());
  EXPECT_EQ(inferred.version(), 4);
}

TEST_F(ReplicasTest, StreamsAreServedAsWell) {
  Start(2);
  server(0).Create("a", 1, "rl_observation");
  grpc::ClientContext context;
  const auto steps = server(1).normalization().Steps(&context);
  int64_t version = 1;
  for (int round = 0; round < 5; ++round) {
    EXPECT_EQ(Train(server(0), StepOf("a", {1.0 * round, 2})).version(), ++version);
    v1::StepsRequest request;
    *request.mutable_train_step() = StepOf("a", {5.0, 2.0 * round}, absl::StrCat("stream ", round));
    v1::StepsResponse response;
    ASSERT_TRUE(steps->Write(request));
    ASSERT_TRUE(steps->Read(&response));
    EXPECT_EQ(response.status().message(), "");
    EXPECT_EQ(response.train_step().version(), ++version);
    // y is what the version that was made gives.
    v1::InferRequest infer;
    infer.set_layer("a");
    infer.set_version(version);
    *infer.mutable_x() = request.train_step().x();
    v1::InferResponse inferred;
    ASSERT_THAT(Call(server(1).normalization(), &Normalization::Infer, infer, &inferred), GrpcIsOk());
    EXPECT_EQ(inferred.y().data(), response.train_step().y().data());

    grpc::ClientContext chunks_context;
    const auto chunks = server(0).normalization().TrainStepStream(&chunks_context);
    v1::TrainStepStreamRequest chunk;
    *chunk.mutable_call() = request.train_step();
    chunk.mutable_call()->set_request_id(absl::StrCat("chunks ", round));
    chunk.mutable_call()->set_omit_output(true);
    chunk.set_data(chunk.call().x().data());
    chunk.mutable_call()->mutable_x()->clear_data();
    v1::TrainStepStreamResponse answer;
    ASSERT_TRUE(chunks->Write(chunk));
    ASSERT_TRUE(chunks->Read(&answer));
    EXPECT_EQ(answer.result().version(), ++version);
    chunks->WritesDone();
    EXPECT_THAT(chunks->Finish(), GrpcIsOk());
    Train(server(1), StepOf("a", {1}));
    ++version;
  }
  steps->WritesDone();
  EXPECT_THAT(steps->Finish(), GrpcIsOk());
}

TEST_F(ReplicasTest, LayersThatShareGammaAndBetaStayTogether) {
  Start(2);
  server(0).Create("a", 1, "pytorch");
  EXPECT_EQ(server(1).Get("a").version(), 1);
  const auto fork = [&](std::size_t at, const std::string& name) {
    v1::ForkLayerRequest request;
    request.set_name("a");
    request.set_new_name(name);
    request.set_share_affine(true);
    v1::ForkLayerResponse response;
    EXPECT_THAT(Call(server(at).layers(), &Layers::ForkLayer, request, &response), GrpcIsOk());
  };
  const auto train = [&](std::size_t at, const std::string& name, double gamma) {
    v1::TrainStepRequest request = StepOf(name, {1, 2, 3});
    request.add_gamma(gamma);
    request.add_beta(-gamma);
    Train(server(at), request);
  };
  fork(0, "b");
  // A server that knows of no group changes the first of them.
  train(1, "a", 2);
  for (const char* name : {"a", "b"}) EXPECT_EQ(Replica(*redis_, "")->Get(name).state().gamma(0), 2) << name;
  // And one that does not know of the newest member.
  fork(1, "c");
  train(0, "b", 3);
  fork(0, "d");
  train(1, "c", 4);
  for (const char* name : {"a", "b", "c", "d"}) EXPECT_EQ(Replica(*redis_, "")->Get(name).state().gamma(0), 4) << name;
}

TEST_F(ReplicasTest, WhoWatchesHearsOfWhatOthersDoSoon) {
  // 20 ms.
  Start(2, "");
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
  v1::WatchLayersRequest request;
  request.set_prefix("net.");
  const auto watch = server(1).layers().WatchLayers(&context, request);
  v1::WatchLayersResponse response;
  server(0).Create("net.a", 1, "standard_scaler");
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.layer().name(), "net.a");
  EXPECT_EQ(response.layer().version(), 1);
  Train(server(0), StepOf("net.a", {4}));
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.layer().version(), 2);
  EXPECT_EQ(server(1).Get("net.a").state().running_mean(0), 4);
  ASSERT_THAT(Delete(server(0), "net.a"), GrpcIsOk());
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_TRUE(response.deleted());
  EXPECT_THAT(ListNames(server(1)), ::testing::IsEmpty());
  context.TryCancel();
}

TEST_F(ReplicasTest, ASnapshotIsTakenAndRestoredAtAnyServer) {
  Start(2);
  const auto snapshots0 = v1::SnapshotService::NewStub(server(0).channel());
  const auto snapshots1 = v1::SnapshotService::NewStub(server(1).channel());
  server(0).Create("a", 1, "standard_scaler");
  Train(server(0), StepOf("a", {2}, "before"));
  EXPECT_EQ(server(1).Get("a").version(), 2);
  Train(server(0), StepOf("a", {4}));
  v1::CreateSnapshotRequest create;
  create.set_name("s");
  v1::CreateSnapshotResponse created;
  // With what it had not heard of.
  ASSERT_THAT(Call(*snapshots1, &Snapshots::CreateSnapshot, create, &created), GrpcIsOk());
  EXPECT_THAT(Call(*snapshots0, &Snapshots::CreateSnapshot, create, &created),
              GrpcStatusIs(grpc::StatusCode::ALREADY_EXISTS, HasSubstr("'s'")));
  ASSERT_THAT(Delete(server(1), "a"), GrpcIsOk());
  v1::RestoreSnapshotRequest restore;
  restore.set_name("s");
  v1::RestoreSnapshotResponse restored;
  ASSERT_THAT(Call(*snapshots0, &Snapshots::RestoreSnapshot, restore, &restored), GrpcIsOk());
  EXPECT_EQ(server(1).Get("a").state().running_mean(0), 3);
  // What it counted before counts no more.
  EXPECT_TRUE(Train(server(1), StepOf("a", {2}, "before")).replayed());
  Train(server(1), StepOf("a", {30}));
  ASSERT_THAT(Call(*snapshots0, &Snapshots::RestoreSnapshot, restore, &restored), GrpcIsOk());
  EXPECT_EQ(server(0).Get("a").state().running_mean(0), 3);
  v1::DeleteSnapshotRequest remove;
  remove.set_name("s");
  v1::DeleteSnapshotResponse removed;
  ASSERT_THAT(Call(*snapshots1, &Snapshots::DeleteSnapshot, remove, &removed), GrpcIsOk());
  EXPECT_THAT(Call(*snapshots0, &Snapshots::DeleteSnapshot, remove, &removed),
              GrpcStatusIs(grpc::StatusCode::NOT_FOUND, HasSubstr("'s'")));
}

// The master of Redis dies under load, its replica behind. What was answered may be lost, but nothing twice, and the
// servers agree.
class ReplicasFailoverTest : public ::testing::TestWithParam<bool> {};

TEST_P(ReplicasFailoverTest, TrainersGoOnAndEveryAnsweredStepIsThereOnce) {
  const auto redis = GetParam() ? RedisSet::Cluster() : RedisSet::Sentinel();
  std::vector<std::unique_ptr<TestServer>> servers;
  for (int i = 0; i < 3; ++i) servers.push_back(Replica(*redis, "&timeout-ms=500"));
  constexpr int kTrainers = 6;
  servers[0]->Create("shared", 1, "standard_scaler");
  Acknowledged acknowledged;
  std::atomic<bool> stop = false;
  std::vector<std::thread> trainers;
  for (int trainer = 0; trainer < kTrainers; ++trainer) {
    trainers.emplace_back([&, trainer] {
      for (int step = 0; !stop; ++step) {
        const double value = trainer * 10 + step % 7;
        const v1::TrainStepRequest request = StepOf("shared", {value}, absl::StrCat(trainer, " ", step));
        v1::TrainStepResponse response;
        grpc::Status status;
        // At another server each time.
        for (int attempt = 0;; ++attempt) {
          status = Call(servers[static_cast<std::size_t>(trainer + step + attempt) % 3]->normalization(),
                        &Normalization::TrainStep, request, &response);
          if (status.error_code() != grpc::StatusCode::UNAVAILABLE) break;
        }
        ASSERT_THAT(status, GrpcIsOk());
        acknowledged.Add(value, response);
      }
    });
  }
  const auto await = [&](std::size_t more) {
    const std::size_t want = acknowledged.size() + more;
    Await("steps", [&] { return acknowledged.size() >= want; });
  };
  await(200);
  for (const auto& server : redis->servers) {
    if (!absl::StrContains(server->Cli("role"), "master")) continue;
    const std::string keys = server->Cli("exists {normd}:journals");
    if (absl::StrContains(keys, "1") && !absl::StrContains(keys, "MOVED")) {
      server->Kill();
      break;
    }
  }
  await(200);
  stop = true;
  for (std::thread& trainer : trainers) trainer.join();
  acknowledged.ExpectCounted(Replica(*redis, "")->Get("shared"));
}

INSTANTIATE_TEST_SUITE_P(Topologies, ReplicasFailoverTest, ::testing::Values(false, true),
                         [](const auto& cluster) { return cluster.param ? "Cluster" : "Sentinel"; });

}  // namespace
}  // namespace normd::tests
