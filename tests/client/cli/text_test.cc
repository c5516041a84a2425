#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

#include "client/cli/context.h"
#include "client/cli/hints.h"
#include "client/cli/plot.h"
#include "client/cli/printer.h"
#include "client/cli/state_json.h"
#include "tests/non_finite.h"
#include "tests/status_matchers.h"

namespace normd::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using tests::IsOk;
using tests::kInf;
using tests::StatusIs;

constexpr double kMax = std::numeric_limits<double>::max();

TEST(HistogramTest, DrawsHowManyFallIntoEachBin) {
  // Four bins of width 1: 8, 0, 1 and 4 values of 8 at most.
  const std::vector<double> values = {0, 0, 0, 0, 0, 0, 0, 0, 2.5, 3.5, 3.5, 3.5, 4};
  EXPECT_EQ(Histogram(values, 4, false), "█ ▁▄");
  EXPECT_EQ(Histogram(values, 4, true), "@ .=");
}

TEST(HistogramTest, CopesWithOddValues) {
  EXPECT_EQ(Histogram({}, 4, true), "");
  EXPECT_EQ(Histogram({1}, 4, true), "@");
  EXPECT_EQ(Histogram({2, 2, 2}, 4, true), "@");
  EXPECT_EQ(Histogram({NAN, kInf, -kInf}, 4, true), "");
  EXPECT_EQ(Histogram({NAN, 0, 1}, 2, true), "@@");
  EXPECT_EQ(Histogram({-kMax, kMax}, 2, true), "@@");
}

TEST(NearNamesTest, FindsWhatWasMeant) {
  const std::vector<std::string> names = {"encoder.bn1", "encoder.bn2", "decoder.bn1", "head"};
  EXPECT_THAT(NearNames("encodr.bn1", names), ElementsAre("encoder.bn1", "encoder.bn2", "decoder.bn1"));
  EXPECT_THAT(NearNames("haed", {"head", "x"}), IsEmpty()) << "two edits of four letters are another word";
  EXPECT_THAT(NearNames("hed", names), ElementsAre("head"));
  EXPECT_THAT(NearNames("decoder", names), ElementsAre("decoder.bn1")) << "part of a name";
  EXPECT_THAT(NearNames("zzz", names), IsEmpty());
  EXPECT_THAT(NearNames("a", {}), IsEmpty());
}

TEST(TimeoutTest, ReadsDurationsAndSeconds) {
  const struct {
    const char* text;
    absl::Duration want;
  } cases[] = {{"5s", absl::Seconds(5)},
               {"500ms", absl::Milliseconds(500)},
               {"1m30s", absl::Seconds(90)},
               {"2", absl::Seconds(2)},
               {"0.5", absl::Milliseconds(500)}};
  for (const auto& c : cases) {
    absl::Duration timeout;
    EXPECT_THAT(ParseTimeout(c.text, &timeout), IsOk()) << c.text;
    EXPECT_EQ(timeout, c.want) << c.text;
  }
  for (const char* text : {"", "soon", "5x", "0", "-1s", "nan"}) {
    absl::Duration timeout;
    EXPECT_THAT(ParseTimeout(text, &timeout), StatusIs(absl::StatusCode::kInvalidArgument)) << text;
  }
}

Layer SomeLayer() {
  Layer layer;
  layer.name = "net.bn1";
  layer.preset = "pytorch";
  layer.config.num_channels = 3;
  layer.config.eps = 1e-5;
  layer.config.averaging = Averaging::kExponentialDebiased;
  layer.config.affine = true;
  layer.version = 4;
  layer.create_time = absl::FromUnixSeconds(0);
  layer.update_time = absl::FromUnixMillis(1500);
  layer.state.emplace();
  layer.state->running_mean = {0.1, NAN, -kInf};
  layer.state->running_var = {1, 4, kInf};
  layer.state->sample_count = {7, 7, 7};
  layer.state->num_batches_tracked = 2;
  layer.state->gamma = {1, 1, 1};
  layer.state->beta = {0, 0, 0};
  return layer;
}

TEST(JsonTest, AStateReadsBackAsItWas) {
  std::ostringstream out;
  MakeJsonPrinter(&out)->PrintLayer(SomeLayer());
  const auto state = ParseState(out.str());
  ASSERT_THAT(state, IsOk());
  EXPECT_EQ(state->running_mean[0], 0.1) << "no digit may be lost";
  EXPECT_TRUE(std::isnan(state->running_mean[1]));
  EXPECT_EQ(state->running_mean[2], -kInf);
  EXPECT_THAT(state->running_var, ElementsAre(1, 4, kInf));
  EXPECT_THAT(state->sample_count, ElementsAre(7, 7, 7));
  EXPECT_EQ(state->num_batches_tracked, 2);
  EXPECT_THAT(state->gamma, ElementsAre(1, 1, 1));
  EXPECT_THAT(state->beta, ElementsAre(0, 0, 0));
}

TEST(JsonTest, UsesTheWiresNames) {
  std::ostringstream out;
  MakeJsonPrinter(&out)->PrintLayer(SomeLayer());
  const Json json = Json::parse(out.str());
  EXPECT_EQ(json["config"]["averaging"], "exponential_debiased");
  EXPECT_EQ(json["config"]["num_channels"], 3);
  EXPECT_FALSE(json["config"].contains("clip"));
  EXPECT_EQ(json["create_time"], "1970-01-01T00:00:00Z");
  EXPECT_EQ(json["update_time"], "1970-01-01T00:00:01.5Z");
  EXPECT_EQ(json["state"]["running_mean"][1], "NaN");
}

TEST(JsonTest, RefusesWhatIsNoState) {
  for (const char* text :
       {"", "[]", "{", "{}", R"({"state": 3})", R"({"running_mean": "x"})", R"({"running_mean": [true]})",
        R"({"running_mean": [1], "num_batches_tracked": 1.5})", R"({"gamma": ["nan"]})"}) {
    EXPECT_THAT(ParseState(text), StatusIs(absl::StatusCode::kInvalidArgument)) << text;
  }
}

TEST(TableTest, DescribesTheEndsOfALongLayerOrAllOfIt) {
  Layer layer = SomeLayer();
  layer.config.num_channels = 100;
  layer.state->running_mean.assign(100, 0.5);
  layer.state->running_var.assign(100, 0.25 - 1e-5);
  layer.state->inv_std.assign(100, 2);
  std::ostringstream some;
  MakeTablePrinter(&some)->PrintDescription(layer, {});
  EXPECT_THAT(some.str(), HasSubstr("\n      4 "));
  EXPECT_THAT(some.str(), HasSubstr("\n    ... "));
  EXPECT_THAT(some.str(), Not(HasSubstr("\n     50 ")));
  EXPECT_THAT(some.str(), HasSubstr("\n     95 "));
  EXPECT_THAT(some.str(), HasSubstr("█"));
  std::ostringstream all;
  MakeTablePrinter(&all)->PrintDescription(layer, {.all = true, .ascii = true});
  EXPECT_THAT(all.str(), HasSubstr("\n     50           0.5      0.24999        2 "));
  EXPECT_THAT(all.str(), Not(HasSubstr("...")));
  EXPECT_THAT(all.str(), Not(HasSubstr("█")));
}

TEST(TableTest, CountsWhatCannotBePlotted) {
  std::ostringstream out;
  MakeTablePrinter(&out)->PrintDescription(SomeLayer(), {});
  EXPECT_THAT(out.str(), HasSubstr("(2 not finite)"));
  EXPECT_THAT(out.str(), HasSubstr("(1 not finite)"));
}

}  // namespace
}  // namespace normd::cli
