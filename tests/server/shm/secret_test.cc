#include "server/shm/secret.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>

namespace normd::shm {
namespace {

TEST(Secret, Is32HexDigitsAndNeverTheSame) {
  std::set<std::string> seen;
  for (int i = 0; i < 1000; ++i) {
    const std::string secret = NewSecret();
    EXPECT_THAT(secret, ::testing::MatchesRegex("[0-9a-f]+"));
    EXPECT_EQ(secret.size(), 32U);
    EXPECT_TRUE(seen.insert(secret).second);
  }
}

TEST(Secret, IsTheSameOnlyWithTheSameBytes) {
  EXPECT_TRUE(SameSecret("", ""));
  EXPECT_TRUE(SameSecret("abc\xff", "abc\xff"));
  EXPECT_FALSE(SameSecret("abc", "abcd"));
  EXPECT_FALSE(SameSecret("abc", "abd"));
  EXPECT_FALSE(SameSecret("abc", "Abc"));
  EXPECT_FALSE(SameSecret("ab\x7f", "ab\xff"));
}

}  // namespace
}  // namespace normd::shm
