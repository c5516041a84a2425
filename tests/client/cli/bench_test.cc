#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "client/cli/bench_json.h"
#include "client/cli/bench_options.h"
#include "client/cli/bench_progress.h"
#include "client/cli/bench_report.h"
#include "client/cli/bench_stats.h"
#include "client/cli/printer.h"
#include "tests/status_matchers.h"

namespace normd::cli {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using tests::IsOk;
using tests::StatusIs;

constexpr int64_t kMs = 1'000'000;

TEST(BenchOptionsTest, ReadsShapes) {
  EXPECT_EQ(ParseShape("256,64").value(), std::vector<int64_t>({256, 64}));
  EXPECT_EQ(ParseShape("2x3x4").value(), std::vector<int64_t>({2, 3, 4}));
  for (const char* text : {"", "256", "2,", "2,-3", "2,0", "a,b", "1,1,1,1,1,1,1,1,1", "99999999999,2",
                           "65536,65536,65536,65536,65536,65536,65536,65536"}) {
    EXPECT_THAT(ParseShape(text), StatusIs(absl::StatusCode::kInvalidArgument)) << text;
  }
}

TEST(BenchOptionsTest, RefusesWhatDoesNotGoTogether) {
  BenchOptions options;
  options.shapes = {{4, 3, 2}, {1, 3}};
  EXPECT_THAT(CheckOptions(options), IsOk());
  EXPECT_EQ(options.num_channels(), 3);
  EXPECT_EQ(options.BytesOf(0), 96);
  options.layout = Layout::kChannelsLast;
  EXPECT_EQ(options.num_channels(), 2);
  EXPECT_THAT(CheckOptions(options), StatusIs(absl::StatusCode::kInvalidArgument, "2 channels and another 3"));
  options.shapes = {{1 << 15, 1 << 15}};
  EXPECT_THAT(CheckOptions(options), StatusIs(absl::StatusCode::kInvalidArgument, "4294967296 bytes"));
  options.shapes = {{1, 1}};
  options.connections = 2;
  EXPECT_THAT(CheckOptions(options),
              StatusIs(absl::StatusCode::kInvalidArgument, "2 are more than the calls under way, 1"));
  options.rate = 1;
  EXPECT_THAT(CheckOptions(options), IsOk());
  options.max_in_flight = 1;
  EXPECT_THAT(CheckOptions(options), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(BenchOptionsTest, FewLargeTensorsAreInFlight) {
  BenchOptions options;
  options.shapes = {{256, 64}};
  EXPECT_EQ(MaxInFlight(options), 1000);
  options.shapes = {{256, 64}, {2048, 4096}};
  EXPECT_EQ(MaxInFlight(options), 8) << "32 MiB in and out";
  options.shapes = {{8, 4096, 8192}};
  EXPECT_EQ(MaxInFlight(options), 1);
  options.max_in_flight = 17;
  EXPECT_EQ(MaxInFlight(options), 17);
}

// The first `count` steps: letters for the call, digits for the shape.
std::string Steps(double train_fraction, std::size_t shapes, int count) {
  BenchOptions options;
  options.shapes.resize(shapes);
  options.train_fraction = train_fraction;
  std::string text;
  for (int i = 0; i < count; ++i) {
    const BenchStep step = StepAt(options, i);
    text += step.call == BenchCall::kTrain ? "t" : "i";
    text += std::to_string(step.shape);
  }
  return text;
}

TEST(BenchOptionsTest, MixesEvenly) {
  EXPECT_EQ(Steps(0, 1, 4), "i0i0i0i0");
  EXPECT_EQ(Steps(1, 1, 4), "t0t0t0t0");
  EXPECT_EQ(Steps(0.25, 1, 8), "i0i0i0t0i0i0i0t0");
  EXPECT_EQ(Steps(0.5, 2, 8), "i0i1t0t1i0i1t0t1") << "every shape has its training steps";
  BenchOptions options;
  options.shapes.resize(1);
  options.train_fraction = 0.1;
  int train = 0;
  for (int i = 0; i < 1000; ++i) train += StepAt(options, i).call == BenchCall::kTrain ? 1 : 0;
  EXPECT_EQ(train, 100);
}

// A run by hand: windows of 1 s after a warm-up of 1 s, from time 0.
class BenchReportTest : public ::testing::Test {
 protected:
  BenchReportTest() {
    options_.shapes = {{2, 8}};
    options_.warmup = absl::Seconds(1);
    options_.duration = absl::Seconds(1);
  }

  // `count` calls of `latency_ms` that end in `window`.
  void Add(int window, int count, int64_t latency_ms, BenchCall call = BenchCall::kInfer) {
    for (int i = 0; i < count; ++i) {
      const int64_t end = (int64_t{window} + 1) * 1000 * kMs + 500 * kMs;
      recorder_.Started(end - latency_ms * kMs, end - latency_ms * kMs);
      recorder_.Ended(call, end - latency_ms * kMs, end, 64, 32);
    }
  }
  void Fail(int window, const absl::Status& status) {
    const int64_t at = (int64_t{window} + 1) * 1000 * kMs + 1;
    recorder_.Started(at, at);
    recorder_.Ended(BenchCall::kInfer, at, at, 64, status);
  }
  BenchReport Report(int windows = 3) const { return MakeBenchReport(options_, recorder_, windows); }

  BenchOptions options_;
  BenchRecorder recorder_{BenchTimeline{0, 1000 * kMs, 1000 * kMs, 3}};
};

TEST_F(BenchReportTest, CountsByTheWindowInWhichACallEnded) {
  Add(-1, 5, 1);
  Add(0, 2, 1);
  Add(1, 3, 1000);
  Add(2, 4, 1);
  Add(3, 7, 1000);
  Fail(1, absl::InternalError("first"));
  Fail(1, absl::InternalError("second"));
  recorder_.Started(1700 * kMs, 1800 * kMs);
  recorder_.NotSent(1700 * kMs);
  const BenchReport report = Report();
  const int64_t under_way[] = {0, 3 + 1, 1, 7 + 1};
  for (int i = 0; i < 3; ++i) {
    const BenchWindow& window = report.windows[static_cast<std::size_t>(i)];
    EXPECT_EQ(window.under_way_before, under_way[i]) << i;
    EXPECT_EQ(window.under_way_after, under_way[i + 1]) << i;
    EXPECT_EQ(window.under_way_before + window.started, window.ok() + window.failed() + window.under_way_after) << i;
  }
  EXPECT_EQ(report.total.ok(), 9);
  EXPECT_EQ(report.total.failed(), 2);
  EXPECT_EQ(report.total.not_sent, 1);
  EXPECT_EQ(report.total.started, 2 + 3 + 4 + 7 + 2 + 1);
  EXPECT_EQ(report.total.under_way_before, 0);
  EXPECT_EQ(report.total.under_way_after, 8);
  EXPECT_EQ(report.total.bytes_sent(), 9 * 64);
  EXPECT_EQ(report.total.bytes_received(), 9 * 32);
  EXPECT_EQ(report.total.send_delay.max(), 100 * kMs);
  EXPECT_EQ(report.messages.at(absl::StatusCode::kInternal), "first");
}

TEST_F(BenchReportTest, SaysWhenTheWindowsDisagree) {
  for (int i = 0; i < 3; ++i) Add(i, 100, 10);
  EXPECT_FALSE(Report().windows_disagree());
  EXPECT_THAT(Report().warnings(), IsEmpty());
  Add(1, 10, 10);
  EXPECT_NEAR(Report().throughput_spread, 10 / (310.0 / 3), 1e-12);
  EXPECT_FALSE(Report().windows_disagree()) << "within the tolerance";
  Add(1, 2, 10);
  EXPECT_TRUE(Report().windows_disagree());
  EXPECT_THAT(Report().warnings(), ElementsAre(AllOf(HasSubstr("disagree"), HasSubstr("OK/S differs by 12 %"))));
}

TEST_F(BenchReportTest, SaysWhenTheMediansOfOneKindDisagree) {
  options_.train_fraction = 0.5;
  for (int i = 0; i < 3; ++i) {
    Add(i, 100, 10);
    Add(i, 100, i == 2 ? 25 : 20, BenchCall::kTrain);
  }
  EXPECT_EQ(Report().throughput_spread, 0);
  EXPECT_NEAR(Report().p50_spread, 5 / (65.0 / 3), 0.01);
  EXPECT_TRUE(Report().windows_disagree());
  EXPECT_FALSE(Report(2).windows_disagree());
  EXPECT_FALSE(Report(1).windows_disagree()) << "one window has nothing to disagree with";
  EXPECT_THAT(Report(1).warnings(), ElementsAre("interrupted after 1 of 3 windows"));
}

TEST_F(BenchReportTest, SaysWhenTheRateWasNotReached) {
  options_.rate = 100;
  for (int i = 0; i < 3; ++i) Add(i, 100, 10);
  recorder_.NotSent(1500 * kMs);
  EXPECT_THAT(Report().warnings(), ElementsAre(HasSubstr("1 call of 301 could not be sent when due, with 1000")));
  for (int i = 0; i < 11; ++i) recorder_.Started(3500 * kMs, 3500 * kMs);
  EXPECT_THAT(Report().warnings(), ElementsAre(HasSubstr("could not be sent"), HasSubstr("11 calls had no answer")));
  for (int i = 0; i < 400; ++i) recorder_.Started(3500 * kMs, 3506 * kMs);
  EXPECT_THAT(Report().warnings().back(), HasSubstr("normctl itself was late: it sent half of the calls 6.0"));
}

TEST_F(BenchReportTest, ATableForPeople) {
  options_.train_fraction = 0.25;
  options_.concurrency = 2;
  for (int i = 0; i < 3; ++i) Add(i, 200, 20, BenchCall::kTrain);
  for (int i = 0; i < 3; ++i) Add(i, 4000, 10);
  Fail(1, absl::ResourceExhaustedError("the queue is full"));
  BenchReport report = Report();
  report.server = "host:1";
  std::ostringstream out;
  MakeTablePrinter(&out)->PrintBench(report);
  const std::string text = out.str();
  for (const char* want :
       {"host:1\n", "infer, and 25 % train", "float32 [2, 8] channels_first", "a temporary one",
        "closed loop, 2 calls under way, 1 connection", "3 windows of 1s after 1s of warm-up",
        "WINDOW  REQUESTS  ERRORS  OK/S  MB/S SENT  MB/S RECEIVED\n",
        "     2      4201       1  4200      0.269          0.134\n",
        "   all     12601       1  4200      0.269          0.134\n",
        "LATENCY            MEAN      P50      P90      P99    P99.9      MAX\n",
        "      1  infer  10.0 ms  10.0 ms  10.0 ms  10.0 ms        -  10.0 ms\n",
        "    all  infer  10.0 ms  10.0 ms  10.0 ms  10.0 ms  10.0 ms  10.0 ms\n",
        "    all  train  20.0 ms  20.0 ms  20.0 ms  20.0 ms        -  20.0 ms\n",
        "RESOURCE_EXHAUSTED      1  the queue is full\n", "note: P99.9 takes 10000 calls of a kind"}) {
    EXPECT_THAT(text, HasSubstr(want));
  }
  EXPECT_THAT(text, AllOf(Not(HasSubstr("NOT SENT")), Not(HasSubstr("warning:"))));

  options_.rate = 10;
  options_.layer = "encoder.bn1";
  recorder_.NotSent(1500 * kMs);
  std::ostringstream open;
  MakeTablePrinter(&open)->PrintBench(Report());
  EXPECT_THAT(open.str(), AllOf(HasSubstr("open loop, 10 calls/s, at most 1000 under way"),
                                HasSubstr("WINDOW    DUE  NOT SENT  REQUESTS"), HasSubstr("     1   4201         1"),
                                HasSubstr("encoder.bn1"), HasSubstr("warning: 1 call of")));
}

TEST_F(BenchReportTest, JsonForPrograms) {
  options_.train_fraction = 0.25;
  Add(0, 4, 10);
  Add(1, 5, 10);
  Add(2, 6, 10);
  Add(2, 1, 30, BenchCall::kTrain);
  Fail(0, absl::InternalError("broken"));
  std::ostringstream out;
  MakeJsonPrinter(&out)->PrintBench(Report());
  const Json json = Json::parse(out.str());
  EXPECT_EQ(json["settings"]["shapes"], Json({{2, 8}}));
  EXPECT_EQ(json["settings"]["loop"], "closed");
  EXPECT_EQ(json["settings"]["layer"], nullptr);
  EXPECT_EQ(json["windows"].size(), 3U);
  EXPECT_EQ(json["windows"][0]["errors"], Json({{"INTERNAL", 1}}));
  EXPECT_EQ(json["windows"][0]["train"]["latency_us"]["p50"], nullptr) << "there was none";
  EXPECT_EQ(json["windows"][2]["ok_per_second"], 7.0);
  EXPECT_EQ(json["total"]["seconds"], 3.0);
  EXPECT_EQ(json["total"]["requests"], 17);
  EXPECT_EQ(json["total"]["ok"], 16);
  EXPECT_NEAR(json["total"]["sent_megabytes_per_second"].get<double>(), 16 * 64 / 1e6 / 3, 1e-12);
  EXPECT_EQ(json["total"]["infer"]["ok"], 15);
  EXPECT_EQ(json["total"]["infer"]["latency_us"]["max"], 10000.0);
  EXPECT_EQ(json["total"]["infer"]["latency_us"]["p99_9"], nullptr);
  EXPECT_EQ(json["total"]["train"]["latency_us"]["mean"], 30000.0);
  EXPECT_EQ(json["windows_disagree"], true);
  EXPECT_EQ(json["warnings"].size(), 1U);
  EXPECT_EQ(json["error_messages"], Json({{"INTERNAL", "broken"}}));
  EXPECT_FALSE(json["client_version"].get<std::string>().empty());
}

TEST_F(BenchReportTest, ProgressInALine) {
  Add(0, 100, 10);
  EXPECT_EQ(BenchProgressLine(recorder_, 500 * kMs), "warm-up  0.5 s  0 ok/s");
  EXPECT_EQ(BenchProgressLine(recorder_, 1500 * kMs), "window 1/3  0.5 s  200 ok/s  p50 10.0 ms  p99 10.0 ms");
  Fail(1, absl::InternalError("broken"));
  recorder_.NotSent(2500 * kMs);
  EXPECT_EQ(BenchProgressLine(recorder_, 2500 * kMs), "window 2/3  0.5 s  0 ok/s  1 not sent  1 error");
  recorder_.Started(3900 * kMs, 3900 * kMs);
  EXPECT_EQ(BenchProgressLine(recorder_, 4001 * kMs), "waiting for 1 call under way");
}

TEST(BenchTextTest, ThreeDigitsAndAUnit) {
  const std::map<int64_t, std::string> cases = {
      {0, "0 ns"},           {999, "999 ns"},       {1000, "1.00 us"},       {9994, "9.99 us"},
      {9996, "10.0 us"},     {99960, "100 us"},     {999499, "999 us"},      {999500, "1.00 ms"},
      {12345678, "12.3 ms"}, {999600000, "1.00 s"}, {65000000000, "65.0 s"}, {7200000000000, "7200 s"}};
  for (const auto& [nanoseconds, want] : cases) EXPECT_EQ(LatencyText(nanoseconds), want);
  EXPECT_EQ(RateText(0), "0");
  EXPECT_EQ(RateText(0.25), "0.25");
  EXPECT_EQ(RateText(999.4), "999");
  EXPECT_EQ(RateText(999.6), "1000");
  EXPECT_EQ(RateText(1234567.8), "1234568");
}

}  // namespace
}  // namespace normd::cli
