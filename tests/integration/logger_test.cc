// Log lines in both forms: one line each, whatever stands in them.

#include "server/app/logger.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "tests/integration/captured_log.h"
#include "tests/integration/test_server.h"

namespace normd::app {
namespace {

using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::Not;

// What somebody could send to forge a line or to break a parser.
constexpr char kNasty[] = "a\"b\\c\nlevel=error \x1b[31m \xff";

struct Captured {
  Captured(LogLevel level, LogFormat format) : logger(level, format, out) {}
  std::shared_ptr<tests::CapturedLog> out = std::make_shared<tests::CapturedLog>();
  Logger logger;
};

TEST(Logger, TextIsKeysAndValues) {
  Captured log(LogLevel::kInfo, LogFormat::kText);
  log.logger.Log(LogLevel::kInfo, "listening", {{"address", "[::1]:5"}, {"threads", 2}, {"share", 0.5}, {"empty", ""}});
  EXPECT_THAT(log.out->Text(), MatchesRegex("time=[0-9-]+T[0-9:.]+Z level=info message=listening address=\\[::1\\]:5 "
                                            "threads=2 share=0.5 empty=\"\"\n"));
}

TEST(Logger, NothingBreaksOutOfALineOfText) {
  Captured log(LogLevel::kInfo, LogFormat::kText);
  log.logger.Log(LogLevel::kWarn, kNasty, {{"value", kNasty}});
  const std::string line = log.out->Text();
  EXPECT_EQ(std::count(line.begin(), line.end(), '\n'), 1);
  EXPECT_THAT(line, AllOf(HasSubstr("value=\"a\\\"b\\\\c\\nlevel=error"), Not(HasSubstr("\x1b"))));
}

TEST(Logger, JsonIsOneObjectALine) {
  Captured log(LogLevel::kInfo, LogFormat::kJson);
  log.logger.Log(LogLevel::kError, kNasty, {{"value", kNasty}, {"count", 3}, {"ms", 1.5}});
  const std::string line = log.out->Text();
  EXPECT_EQ(std::count(line.begin(), line.end(), '\n'), 1);
  const nlohmann::json entry = nlohmann::json::parse(line);
  EXPECT_EQ(entry["level"], "error");
  EXPECT_EQ(entry["value"], "a\"b\\c\nlevel=error \x1b[31m \xef\xbf\xbd") << "what is no UTF-8 is replaced";
  EXPECT_EQ(entry["count"], 3);
  EXPECT_EQ(entry["ms"], 1.5);
}

TEST(Logger, LevelsFilter) {
  Captured log(LogLevel::kWarn, LogFormat::kText);
  log.logger.Log(LogLevel::kDebug, "no");
  log.logger.Log(LogLevel::kInfo, "no");
  EXPECT_EQ(log.out->Text(), "");
  log.logger.Log(LogLevel::kWarn, "yes");
  EXPECT_THAT(log.out->Text(), HasSubstr("message=yes"));
  EXPECT_FALSE(ParseLogLevel("loud").ok());
  EXPECT_EQ(*ParseLogLevel("error"), LogLevel::kError);
}

TEST(AccessLog, HasALinePerCall) {
  const auto out = std::make_shared<tests::CapturedLog>();
  {
    tests::TestServer server(tests::TestOptions(), out);
    server.Create("net.bn1", 2);
    v1::InferRequest request;
    request.set_layer("no such\nlayer");
    v1::InferResponse response;
    tests::Call(server.normalization(), &v1::NormalizationService::Stub::Infer, request, &response);
  }
  EXPECT_THAT(out->Text(), HasSubstr("level=debug message=call method=CreateLayer layer=net.bn1 code=OK"));
  EXPECT_THAT(out->Text(), HasSubstr("method=Infer layer=\"no such\\nlayer\" code=INVALID_ARGUMENT"));
  EXPECT_THAT(out->Text(), AllOf(HasSubstr("duration_ms="), HasSubstr("peer=")));
}

}  // namespace
}  // namespace normd::app
