#include "server/layer/contributors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "tests/status_matchers.h"

namespace normd::layer {
namespace {

using ::testing::ElementsAre;
using ::testing::Pair;
using tests::StatusIs;

TEST(ContributorsTest, RemembersTheLatestSequenceOfEach) {
  const Contributors none;
  EXPECT_EQ(none.size(), 0);
  EXPECT_EQ(none.LastSequence("a"), 0);

  const Contributors one = none.With("b", 7).value();
  const Contributors two = one.With("a", 3).value();
  const Contributors later = two.With("b", 9).value();
  std::vector<std::pair<std::string, int64_t>> seen;
  later.ForEach([&](absl::string_view name, int64_t sequence) { seen.emplace_back(std::string(name), sequence); });
  EXPECT_THAT(seen, ElementsAre(Pair("a", 3), Pair("b", 9)));
  EXPECT_EQ(later.size(), 2);

  // What it was made from is as it was.
  EXPECT_EQ(none.size(), 0);
  EXPECT_EQ(one.LastSequence("a"), 0);
  EXPECT_EQ(two.LastSequence("b"), 7);
  EXPECT_FALSE(two == later);
  EXPECT_TRUE(later == none.With("a", 3)->With("b", 9).value());
}

TEST(ContributorsTest, IsBounded) {
  Contributors contributors;
  for (std::size_t i = 0; i < Contributors::kMaxSize; ++i) {
    contributors = contributors.With(std::to_string(i), 1).value();
  }
  EXPECT_THAT(contributors.With("new", 1), StatusIs(absl::StatusCode::kResourceExhausted, "'new' is new"));
  EXPECT_EQ(contributors.With("17", 2)->LastSequence("17"), 2);
}

TEST(ContributorsTest, AContributionHasANameAndANumberOrNeither) {
  NORMD_EXPECT_OK(ValidateContribution("", 0));
  NORMD_EXPECT_OK(ValidateContribution(std::string(kMaxContributorBytes, 'a'), 1));
  EXPECT_THAT(ValidateContribution(std::string(kMaxContributorBytes + 1, 'a'), 1),
              StatusIs(absl::StatusCode::kInvalidArgument, "has 129 bytes, want at most 128"));
  EXPECT_THAT(ValidateContribution("", 1), StatusIs(absl::StatusCode::kInvalidArgument, "want both"));
  EXPECT_THAT(ValidateContribution("a", -1), StatusIs(absl::StatusCode::kInvalidArgument, "want above 0"));
}

}  // namespace
}  // namespace normd::layer
