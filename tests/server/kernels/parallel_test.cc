#include "server/kernels/parallel.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <utility>
#include <vector>

namespace normd::kernels {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::Pair;

// Takes parts until there are none and counts how often each item came.
struct Counter {
  Deal deal;
  std::vector<std::atomic<int>> taken;

  Counter(int64_t count, int threads, int64_t least)
      : deal(count, threads, least), taken(static_cast<std::size_t>(count)) {}
  void operator()(int rank, int /*size*/) {
    for (Part part = deal.Next(rank); !part.empty(); part = deal.Next(rank)) {
      for (int64_t i = part.begin; i < part.end; ++i) ++taken[static_cast<std::size_t>(i)];
    }
  }
};

TEST(DealTest, GivesEachItemOnceToATeamOfAnySize) {
  for (int threads = 1; threads <= 8; ++threads) {
    for (const int64_t count : {1, 2, 7, 8, 100, 1001}) {
      for (const int64_t least : {1, 3, 64}) {
        Counter counter(count, threads, least);
        RunTeam(threads, &counter);
        const std::vector<int> taken(counter.taken.begin(), counter.taken.end());
        EXPECT_THAT(taken, Each(1)) << threads << " threads, " << count << " items, at least " << least;
      }
    }
  }
}

// The parts that a member gets if it alone asks.
std::vector<std::pair<int64_t, int64_t>> PartsOf(int rank, Deal* deal) {
  std::vector<std::pair<int64_t, int64_t>> parts;
  for (Part part = deal->Next(rank); !part.empty(); part = deal->Next(rank)) parts.emplace_back(part.begin, part.end);
  return parts;
}

TEST(DealTest, BeginsWithTheOwnShareFromItsFrontAndGoesOnWithTheEndOfOthers) {
  Deal deal(16, 2, 1);
  EXPECT_THAT(PartsOf(1, &deal), ElementsAre(Pair(8, 12), Pair(12, 14), Pair(14, 15), Pair(15, 16),  //
                                             Pair(4, 8), Pair(2, 4), Pair(1, 2), Pair(0, 1)));
  EXPECT_TRUE(deal.Next(0).empty());
}

TEST(DealTest, GivesNoLessThanTheLeastButAtTheEnd) {
  Deal deal(25, 2, 10);
  EXPECT_THAT(PartsOf(0, &deal), ElementsAre(Pair(0, 10), Pair(20, 25), Pair(10, 20)));
}

TEST(DealTest, GivesEverythingAtOnceToOne) {
  Deal deal(25, 1, 1);
  EXPECT_THAT(PartsOf(0, &deal), ElementsAre(Pair(0, 25)));
}

TEST(DealTest, TakesMoreMembersThanItHasShares) {
  const int member = 200;
  Deal deal(1000, member + 1, 1);
  int64_t items = 0;
  for (const auto& [begin, end] : PartsOf(member, &deal)) items += end - begin;
  EXPECT_EQ(items, 1000);
}

TEST(DealTest, HasNothingToGiveOfNothing) {
  Deal deal(0, 4, 8);
  EXPECT_TRUE(deal.Next(3).empty());
}

}  // namespace
}  // namespace normd::kernels
