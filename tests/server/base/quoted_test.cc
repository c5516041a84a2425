#include "server/base/quoted.h"

#include <gtest/gtest.h>

#include <string>

namespace normd::base {
namespace {

TEST(QuotedTest, EscapesWhatIsNotPrintable) {
  EXPECT_EQ(Quoted("resnet.bn1"), "'resnet.bn1'");
  EXPECT_EQ(Quoted(""), "''");
  EXPECT_EQ(Quoted("two\nlines 'and' \x1b[0m"), R"('two\nlines \'and\' \x1b[0m')");
  EXPECT_EQ(Quoted("\xff\xc3\xa9"), R"('\xff\xc3\xa9')");
}

TEST(QuotedTest, ShortensWhatIsLong) {
  EXPECT_EQ(Quoted(std::string(64, 'a')), "'" + std::string(64, 'a') + "'");
  EXPECT_EQ(Quoted(std::string(65, 'a')), "'" + std::string(64, 'a') + "...'");
}

}  // namespace
}  // namespace normd::base
