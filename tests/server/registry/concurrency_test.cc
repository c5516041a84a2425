#include <algorithm>
#include <atomic>
#include <cmath>
#include <future>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/registry/layer_entry.h"
#include "tests/server/registry/registry_fixture.h"

namespace normd::registry {
namespace {

using absl::StatusCode;
using tests::IsOk;
using tests::StatusIs;
using tests::View;

constexpr int kThreads = 8;

void InThreads(int count, const std::function<void(int)>& body) {
  std::vector<std::thread> threads;
  for (int i = 0; i < count; ++i) threads.emplace_back(body, i);
  for (std::thread& thread : threads) thread.join();
}

using RegistryConcurrencyTest = tests::RegistryTest;

// The values of step `step` of thread `thread`, (3 + step % 4, 1).
std::vector<double> Batch(int thread, int step) {
  std::vector<double> values;
  for (int i = 0; i < 3 + step % 4; ++i) values.push_back((thread * 31 + step * 17 + i * 7) % 23);
  return values;
}

TEST_F(RegistryConcurrencyTest, EveryStepOfEveryThreadIsCountedOnce) {
  constexpr int kSteps = 200;
  MakeLayer("obs", 1, "rl_observation");
  std::vector<int64_t> versions[kThreads];
  InThreads(kThreads, [&](int thread) {
    for (int step = 0; step < kSteps; ++step) {
      const std::vector<double> x = Batch(thread, step);
      TrainStepInput input;
      input.layer = "obs";
      input.x = View(x, {static_cast<int64_t>(x.size()), 1});
      input.request_id = absl::StrCat(thread, "-", step);
      std::vector<double> y(x.size());
      NORMD_ASSERT_OK_AND_ASSIGN(const auto result, TrainStep(registry_, input, control_, Bytes(&y)));
      versions[thread].push_back(result.version);
      EXPECT_EQ(result.num_batches_tracked, result.version - 1);
      if (step % 3 != 0) continue;
      NORMD_ASSERT_OK_AND_ASSIGN(const auto retry, TrainStep(registry_, input, control_, nullptr));
      EXPECT_TRUE(retry.replayed);
      EXPECT_EQ(retry.version, result.version);
      EXPECT_EQ(retry.content_hash, result.content_hash);
    }
  });

  // One version per step, each given to one caller, rising within a thread.
  std::vector<int64_t> all;
  for (const auto& mine : versions) {
    EXPECT_TRUE(std::is_sorted(mine.begin(), mine.end()));
    all.insert(all.end(), mine.begin(), mine.end());
  }
  std::sort(all.begin(), all.end());
  for (size_t i = 0; i < all.size(); ++i) ASSERT_EQ(all[i], static_cast<int64_t>(i) + 2);

  long double count = 0;
  long double sum = 0;
  long double sum_of_squares = 0;  // Of small whole numbers: exact.
  for (int thread = 0; thread < kThreads; ++thread) {
    for (int step = 0; step < kSteps; ++step) {
      for (const double v : Batch(thread, step)) {
        count += 1;
        sum += v;
        sum_of_squares += v * v;
      }
    }
  }
  const auto layer = Get("obs");
  EXPECT_EQ(layer->statistics->sample_count[0], static_cast<double>(count));
  EXPECT_EQ(layer->statistics->num_batches_tracked, kThreads * kSteps);
  const auto mean = static_cast<double>(sum / count);
  EXPECT_NEAR(layer->statistics->running_mean[0], mean, 1e-11);
  EXPECT_NEAR(layer->statistics->running_var[0], static_cast<double>(sum_of_squares / count) - mean * mean, 1e-10);
}

TEST_F(RegistryConcurrencyTest, AnOutputFitsTheVersionThatItsStepMade) {
  // One thread changes eps all the time; the others must use the eps of the version that they followed.
  MakeLayer("bn", 1);
  std::mutex mutex;
  std::map<int64_t, double> eps_since;
  eps_since[1] = 1e-5;
  struct Seen {
    int64_t version;
    double y;
  };
  std::vector<Seen> seen;
  std::atomic<int> running = 3;
  InThreads(4, [&](int thread) {
    if (thread == 0) {
      for (int i = 1; running > 0; ++i) {
        const double eps = 1 + i % 7;
        NORMD_ASSERT_OK_AND_ASSIGN(const auto updated,
                                   registry_.Update("bn", {.values = {.eps = eps}, .fields = {"eps"}}, "", ""));
        const std::lock_guard<std::mutex> lock(mutex);
        eps_since.emplace(updated->version, eps);
      }
      return;
    }
    const std::vector<double> x = {-1, 1};
    TrainStepInput input;
    input.layer = "bn";
    input.x = View(x, {2, 1});
    for (int step = 0; step < 300; ++step) {
      std::vector<double> y(2);
      const auto result = TrainStep(registry_, input, control_, Bytes(&y));
      EXPECT_THAT(result, IsOk());
      if (!result.ok()) break;
      const std::lock_guard<std::mutex> lock(mutex);
      seen.push_back({result->version, y[1]});
    }
    --running;
  });
  EXPECT_EQ(seen.size(), 900U);
  for (const Seen& s : seen) {
    const double eps = std::prev(eps_since.upper_bound(s.version))->second;
    EXPECT_NEAR(s.y, 1 / std::sqrt(1 + eps), 1e-14) << s.version;
  }
}

// Batches large enough that other commits fall between the look at the layer and the commit of nearly every step.
TEST_F(RegistryConcurrencyTest, AStepFoldsIntoTheNewestState) {
  constexpr int kSteps = 25;
  constexpr int kRows = 20'000;
  MakeLayer("bn", 1, "reference", [](layer::LayerConfig& c) { c.averaging = layer::Averaging::kPooled; });
  InThreads(4, [&](int thread) {
    const std::vector<double> x(kRows, thread);
    std::vector<double> y(kRows);
    TrainStepInput input;
    input.layer = "bn";
    input.x = View(x, {kRows, 1});
    for (int step = 0; step < kSteps; ++step) {
      NORMD_ASSERT_OK_AND_ASSIGN(const auto result, TrainStep(registry_, input, control_, Bytes(&y)));
      EXPECT_EQ(result.num_batches_tracked, result.version - 1);
    }
  });
  const auto layer = Get("bn");
  EXPECT_EQ(layer->version, 1 + 4 * kSteps);
  EXPECT_EQ(layer->statistics->sample_count[0], 4.0 * kSteps * kRows);
  EXPECT_NEAR(layer->statistics->running_mean[0], 1.5, 1e-12);
  EXPECT_NEAR(layer->statistics->running_var[0], 1.25, 1e-12);
}

TEST_F(RegistryConcurrencyTest, APolicyHoldsFromItsVersionOn) {
  constexpr int kSteps = 1000;
  constexpr int kRows = 50'000;
  MakeLayer("bn", 1);
  std::map<int64_t, layer::NonFinitePolicy> policy_since = {{1, layer::NonFinitePolicy::kReject}};
  std::vector<int64_t> skipped_by;
  std::atomic<int> steps_begun = 0;
  InThreads(2, [&](int thread) {
    if (thread == 0) {
      // One change during each step, sooner or later after its beginning.
      for (int step = 1; step <= kSteps; ++step) {
        while (steps_begun < step) std::this_thread::yield();
        for (int i = 0; i < step; ++i) NORMD_EXPECT_OK(registry_.Get("bn"));
        const auto policy = step % 2 == 1 ? layer::NonFinitePolicy::kSkipChannel : layer::NonFinitePolicy::kReject;
        ConfigUpdate update{.values = {.non_finite_policy = policy}, .fields = {"non_finite_policy"}};
        NORMD_ASSERT_OK_AND_ASSIGN(const auto updated, registry_.Update("bn", update, "", ""));
        policy_since.emplace(updated->version, policy);
      }
      return;
    }
    CallControl control;
    bool first = true;
    control.check_alive = [&] {
      if (std::exchange(first, false)) ++steps_begun;
      return absl::OkStatus();
    };
    std::vector<double> x(kRows, 1);
    x[7] = std::nan("");
    std::vector<double> y(kRows);
    TrainStepInput input;
    input.layer = "bn";
    input.x = View(x, {kRows, 1});
    for (int step = 0; step < kSteps; ++step) {
      first = true;
      const auto result = TrainStep(registry_, input, control, Bytes(&y));
      EXPECT_THAT(result, ::testing::AnyOf(IsOk(), StatusIs(StatusCode::kInvalidArgument, "REJECT")));
      if (result.ok()) skipped_by.push_back(result->version);
    }
  });
  for (const int64_t version : skipped_by) {
    const auto policy = std::prev(policy_since.upper_bound(version))->second;
    EXPECT_EQ(policy, layer::NonFinitePolicy::kSkipChannel) << version;
  }
}

TEST_F(RegistryConcurrencyTest, ReadersSeeWholeVersionsAndNeverWait) {
  MakeLayer("bn", 2);
  std::promise<void> inside;
  std::promise<void> go_on;
  std::thread trainer([&] {
    CallControl control;
    int asked = 0;
    control.check_alive = [&] {
      // The second question comes from inside the commit.
      if (++asked == 2) {
        inside.set_value();
        go_on.get_future().wait();
      }
      return absl::OkStatus();
    };
    const std::vector<double> x = {1, 2, 3, 4};
    TrainStepInput input;
    input.layer = "bn";
    input.x = View(x, {2, 2});
    EXPECT_THAT(TrainStep(registry_, input, control, nullptr), IsOk());
  });
  inside.get_future().wait();
  // While the commit is held up: reading, inferring, listing, and the life of other layers.
  EXPECT_EQ(Get("bn")->version, 1);
  const std::vector<double> x = {1, 2};
  std::vector<double> y(2);
  NORMD_EXPECT_OK(Infer(registry_, "bn", View(x, {1, 2}), 1, control_, Bytes(&y)));
  EXPECT_EQ(registry_.List("", "", 10).layers.size(), 1U);
  MakeLayer("other", 1);
  EXPECT_THAT(registry_.Delete("other", "", ""), IsOk());
  go_on.set_value();
  trainer.join();
  EXPECT_EQ(Get("bn")->version, 2);
}

TEST_F(RegistryConcurrencyTest, ADeletionDuringTrainingWaitsForTheCommitAndNobodyElse) {
  MakeLayer("bn", 1);
  MakeLayer("other", 1);
  std::promise<void> inside;
  std::promise<void> go_on;
  std::thread trainer([&] {
    CallControl control;
    int asked = 0;
    control.check_alive = [&] {
      if (++asked == 2) {
        inside.set_value();
        go_on.get_future().wait();
      }
      return absl::OkStatus();
    };
    const std::vector<double> x = {1, 2};
    TrainStepInput input;
    input.layer = "bn";
    input.x = View(x, {2, 1});
    EXPECT_THAT(TrainStep(registry_, input, control, nullptr), IsOk());
    EXPECT_THAT(TrainStep(registry_, input, CallControl(), nullptr),
                ::testing::AnyOf(IsOk(), StatusIs(StatusCode::kNotFound, "layer 'bn'")));
  });
  inside.get_future().wait();
  std::thread deleter([&] { EXPECT_THAT(registry_.Delete("bn", "", ""), IsOk()); });
  // Whether the deletion has got to its wait or not, reads go on.
  EXPECT_EQ(Get("other")->version, 1);
  EXPECT_EQ(Get("bn")->version, 1);
  go_on.set_value();
  trainer.join();
  deleter.join();
  EXPECT_THAT(registry_.Get("bn"), StatusIs(StatusCode::kNotFound));
}

TEST_F(RegistryConcurrencyTest, CreatingAndDeletingOneNameHasOneWinnerEach) {
  for (int round = 0; round < 20; ++round) {
    std::atomic<int> created = 0;
    std::atomic<int> deleted = 0;
    InThreads(kThreads, [&](int) {
      const auto result = registry_.Create(Spec("bn", 1));
      EXPECT_THAT(result, ::testing::AnyOf(IsOk(), StatusIs(StatusCode::kAlreadyExists)));
      created += result.ok();
    });
    EXPECT_EQ(created, 1);
    InThreads(kThreads, [&](int thread) {
      const std::vector<double> x = {1, 2};
      TrainStepInput input;
      input.layer = "bn";
      input.x = View(x, {2, 1});
      if (thread % 2 == 0) {
        EXPECT_THAT(TrainStep(registry_, input, control_, nullptr),
                    ::testing::AnyOf(IsOk(), StatusIs(StatusCode::kNotFound, "layer 'bn'")));
      } else {
        const absl::Status status = registry_.Delete("bn", "", "");
        EXPECT_THAT(status, ::testing::AnyOf(IsOk(), StatusIs(StatusCode::kNotFound)));
        deleted += status.ok();
      }
    });
    EXPECT_EQ(deleted, 1);
    EXPECT_EQ(registry_.size(), 0);
  }
}

TEST_F(RegistryConcurrencyTest, ConcurrentRetriesOfOneStepFoldItOnce) {
  MakeLayer("bn", 1);
  const std::vector<double> x = {1, 2};
  for (int step = 0; step < 50; ++step) {
    std::atomic<int> first = 0;
    InThreads(4, [&](int) {
      TrainStepInput input;
      input.layer = "bn";
      input.x = View(x, {2, 1});
      input.request_id = absl::StrCat("step", step);
      NORMD_ASSERT_OK_AND_ASSIGN(const auto result, TrainStep(registry_, input, control_, nullptr));
      first += !result.replayed;
      EXPECT_EQ(result.num_batches_tracked, step + 1);
    });
    EXPECT_EQ(first, 1);
  }
  EXPECT_EQ(Get("bn")->version, 51);
}

}  // namespace
}  // namespace normd::registry
