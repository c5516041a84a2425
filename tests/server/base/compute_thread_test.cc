#include "server/base/compute_thread.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <thread>
#include <vector>

namespace normd::base {
namespace {

using ::testing::ElementsAre;

// A job that says when it runs and waits to be let go.
struct Gate {
  std::promise<void> entered;
  std::promise<void> open;
  ComputeThread::Job Job() {
    return [this] {
      entered.set_value();
      open.get_future().wait();
    };
  }
};

bool Submit(ComputeThread& thread, ComputeThread::Job job) { return thread.Submit(job); }

TEST(ComputeThread, RunsJobsInOrderInOneThread) {
  std::vector<int> order;
  std::vector<std::thread::id> threads;
  {
    ComputeThread thread(100);
    for (int i = 0; i < 5; ++i) {
      EXPECT_TRUE(Submit(thread, [&, i] {
        order.push_back(i);
        threads.push_back(std::this_thread::get_id());
      }));
    }
  }  // Everything that waits is run first.
  EXPECT_THAT(order, ElementsAre(0, 1, 2, 3, 4));
  EXPECT_THAT(threads, ::testing::Each(threads[0]));
  EXPECT_NE(threads[0], std::this_thread::get_id());
}

TEST(ComputeThread, RefusesWhatDoesNotFitAndLeavesItToTheCaller) {
  Gate gate;
  bool ran = false;
  ComputeThread thread(1);
  ASSERT_TRUE(Submit(thread, gate.Job()));
  gate.entered.get_future().wait();
  EXPECT_EQ(thread.waiting(), 0U) << "the running one does not wait";
  EXPECT_TRUE(Submit(thread, [] {}));
  EXPECT_EQ(thread.waiting(), 1U);
  ComputeThread::Job third = [&ran] { ran = true; };
  EXPECT_FALSE(thread.Submit(third));
  third();
  EXPECT_TRUE(ran);
  gate.open.set_value();
}

TEST(ComputeThread, DropsWhatAJobHoldsBeforeTheNextOneRuns) {
  auto held = std::make_shared<int>(1);
  const std::weak_ptr<int> watch = held;
  std::promise<bool> gone;
  ComputeThread thread(10);
  Gate gate;
  ASSERT_TRUE(Submit(thread, gate.Job()));
  ASSERT_TRUE(Submit(thread, [held = std::move(held)] {}));
  ASSERT_TRUE(Submit(thread, [&] { gone.set_value(watch.expired()); }));
  gate.open.set_value();
  EXPECT_TRUE(gone.get_future().get());
}

}  // namespace
}  // namespace normd::base
