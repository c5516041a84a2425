#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "normd/testing/fake_server.h"
#include "tests/client/cli/normctl_fixture.h"

// `normctl bench`, the program itself.
namespace normd {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;
using tests::NormctlTest;
using tests::Outcome;

// Long enough for some calls, since nothing here depends on how many.
constexpr const char* kShort = " --duration 0.2s --warmup 0.05s";

int64_t Sum(const json& numbers) {
  int64_t sum = 0;
  for (const json& number : numbers) sum += number.get<int64_t>();
  return sum;
}

// What holds for every window, and for all of them together.
void ExpectConsistent(const json& window, const json& settings) {
  const int64_t ok = window["ok"];
  EXPECT_EQ(window["requests"], ok + Sum(window["errors"]));
  EXPECT_EQ(window["under_way_before"].get<int64_t>() + window["started"].get<int64_t>(),
            window["requests"].get<int64_t>() + window["under_way_after"].get<int64_t>());
  EXPECT_NEAR(window["ok_per_second"].get<double>() * window["seconds"].get<double>(), static_cast<double>(ok), 1e-6);
  int64_t of_kinds = 0;
  for (const char* kind : {"infer", "train"}) {
    if (!window.contains(kind)) continue;
    const int64_t ok_of_kind = window[kind]["ok"];
    of_kinds += ok_of_kind;
    const json& latency = window[kind]["latency_us"];
    EXPECT_EQ(latency["p99_9"].is_null(), ok_of_kind < 10000);
    if (ok_of_kind == 0) continue;
    double before = latency["min"];
    EXPECT_GT(before, 0);
    for (const char* key : {"p50", "p90", "p99", "max"}) {
      EXPECT_GE(latency[key].get<double>(), before) << key;
      before = latency[key];
    }
    EXPECT_GE(latency["mean"].get<double>(), latency["min"].get<double>());
    EXPECT_LE(latency["mean"].get<double>(), before);
  }
  EXPECT_EQ(of_kinds, ok);
  if (settings["loop"] == "open") {
    EXPECT_EQ(window["due"].get<int64_t>(), window["started"].get<int64_t>() + window["not_sent"].get<int64_t>());
  }
}

void ExpectConsistent(const json& report) {
  const json& settings = report["settings"];
  EXPECT_EQ(report["windows"].size(), settings["windows"]);
  json sums = {{"requests", 0}, {"ok", 0}, {"started", 0}};
  for (const json& window : report["windows"]) {
    ExpectConsistent(window, settings);
    for (auto& [key, sum] : sums.items()) sum = sum.get<int64_t>() + window[key].get<int64_t>();
  }
  ExpectConsistent(report["total"], settings);
  for (const auto& [key, sum] : sums.items()) EXPECT_EQ(report["total"][key], sum) << key;
}

class NormctlBenchTest : public NormctlTest {
 protected:
  std::string Layers() { return Run("layer list --names").out; }
};

TEST_F(NormctlBenchTest, AClosedLoopOfBothKinds) {
  const json report = RunJson(absl::StrCat("bench --shape 8,4 --shape 2,4,3 --dtype float64 --concurrency 3 ",
                                           "--connections 2 --train-fraction 0.5 --windows 2 --timeout 10s", kShort));
  ExpectConsistent(report);
  const json want = {{"shapes", {{8, 4}, {2, 4, 3}}}, {"dtype", "float64"},      {"layout", "channels_first"},
                     {"train_fraction", 0.5},         {"layer", nullptr},        {"connections", 2},
                     {"transport", "grpc"},           {"loop", "closed"},        {"concurrency", 3},
                     {"warmup_seconds", 0.05},        {"duration_seconds", 0.2}, {"windows", 2},
                     {"timeout_seconds", 10.0}};
  EXPECT_EQ(report["settings"], want);
  const json& total = report["total"];
  EXPECT_GT(total["ok"], 0);
  EXPECT_EQ(total["errors"], json::object());
  EXPECT_GT(total["infer"]["ok"], 0);
  EXPECT_GT(total["train"]["ok"], 0);
  EXPECT_GT(total["sent_megabytes_per_second"], 0.0);
  EXPECT_EQ(total["sent_megabytes_per_second"], total["received_megabytes_per_second"]) << "y is as large as x";
  EXPECT_EQ(total["under_way_after"], 3);
  EXPECT_THAT(Layers(), IsEmpty()) << "the temporary layer is gone";
}

TEST_F(NormctlBenchTest, TensorsInSharedMemory) {
  // Of 64 KiB, which is what the client puts there.
  const json report =
      RunJson(absl::StrCat("bench --shape 256,64 --concurrency 2 --transport shm --train-fraction 0.5", kShort));
  EXPECT_THAT(tests::Contents(directory_.Path("err")), Not(HasSubstr("shared memory"))) << "it fell back";
  ExpectConsistent(report);
  EXPECT_EQ(report["settings"]["transport"], "shm");
  EXPECT_EQ(report["total"]["errors"], json::object());
  EXPECT_GT(report["total"]["ok"], 0);
  EXPECT_THAT(Layers(), IsEmpty());
}

TEST_F(NormctlBenchTest, AnOpenLoopFollowsItsSchedule) {
  const json report = RunJson(absl::StrCat("bench --shape 8,4 --rate 100 --train-fraction 0.25", kShort));
  ExpectConsistent(report);
  EXPECT_EQ(report["settings"]["rate"], 100.0);
  EXPECT_EQ(report["settings"]["max_in_flight"], 1000);
  for (const json& window : report["windows"]) EXPECT_EQ(window["due"], 20);
  EXPECT_EQ(report["total"]["due"], 60);
  EXPECT_THAT(Layers(), IsEmpty());
}

TEST_F(NormctlBenchTest, EveryDtypeAndLayout) {
  for (const char* dtype : {"float16", "bfloat16", "float32", "float64"}) {
    for (const char* layout : {"channels_first", "channels_last"}) {
      const json report = RunJson(absl::StrCat("bench --shape 2,3,5 --windows 1 --duration 1s --warmup 0 ",
                                               "--train-fraction 0.5 --dtype ", dtype, " --layout ", layout));
      EXPECT_GT(report["total"]["ok"], 0) << dtype << " " << layout;
      EXPECT_EQ(report["total"]["errors"], json::object()) << dtype << " " << layout;
    }
  }
}

TEST_F(NormctlBenchTest, ATableAndNothingElse) {
  const Outcome outcome = Run(absl::StrCat("bench --shape 8,4", kShort));
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, AllOf(StartsWith(server_.address()), HasSubstr("WINDOW  REQUESTS"), HasSubstr("LATENCY")));
  EXPECT_THAT(outcome.err, IsEmpty()) << "no progress when nobody looks";
}

TEST_F(NormctlBenchTest, AnExistingLayerIsTrainedOnlyOnDemand) {
  server_.Create("mine", 4);
  const json infer = RunJson(absl::StrCat("bench --shape 8,4 --layer mine --windows 1", kShort));
  EXPECT_GT(infer["total"]["infer"]["ok"], 0);
  EXPECT_FALSE(infer["total"].contains("train"));
  EXPECT_EQ(infer["settings"]["layer"], "mine");
  EXPECT_EQ(server_.Get("mine").version(), 1);
  RunJson(absl::StrCat("bench --shape 8,4 --layer mine --windows 1 --train-fraction 1", kShort));
  EXPECT_GT(server_.Get("mine").state().num_batches_tracked(), 0);
  EXPECT_EQ(Layers(), "mine\n") << "and stays";

  const Outcome wrong = Run("bench --shape 8,5 --layer mine");
  EXPECT_EQ(wrong.code, 1);
  EXPECT_THAT(wrong.err, StartsWith("error: INVALID_ARGUMENT: layer 'mine': --shape has 5 channels, want 4"));
  const Outcome unknown = Run("bench --shape 8,4 --layer mime");
  EXPECT_EQ(unknown.code, 1);
  EXPECT_THAT(unknown.err, AllOf(StartsWith("error: NOT_FOUND: "), HasSubstr("did you mean mine?")));
}

TEST_F(NormctlBenchTest, AWrongLineExitsWith2) {
  for (const char* arguments : {"",
                                "--shape",
                                "--shape 8",
                                "--shape 8,4,",
                                "--shape 8,4 --shape 8,5",
                                "--shape 8,4 9,4",
                                "--shape 8,4 --dtype int8",
                                "--shape 8,4 --layout nchw",
                                "--shape 8,4 --train-fraction 1.5",
                                "--shape 8,4 --train-fraction -0.1",
                                "--shape 8,4 --concurrency 0",
                                "--shape 8,4 --rate 0",
                                "--shape 8,4 --rate 10 --concurrency 2",
                                "--shape 8,4 --max-in-flight 5",
                                "--shape 8,4 --connections 2",
                                "--shape 8,4 --duration 0",
                                "--shape 8,4 --duration inf",
                                "--shape 8,4 --warmup -1s",
                                "--shape 8,4 --warmup nan",
                                "--shape 8,4 --windows 0",
                                "--shape 8,4 --bogus"}) {
    const Outcome outcome = Run(absl::StrCat("bench ", arguments));
    EXPECT_EQ(outcome.code, 2) << arguments;
    EXPECT_THAT(outcome.err, Not(IsEmpty())) << arguments;
    EXPECT_THAT(outcome.out, IsEmpty()) << arguments;
  }
  EXPECT_THAT(Layers(), IsEmpty());
  EXPECT_THAT(Run("bench --help").out, AllOf(HasSubstr("--train-fraction"), HasSubstr("--output json")));
}

TEST_F(NormctlBenchTest, ASignalEndsItAndTheLayerGoes) {
  // A shell has its background jobs ignore SIGINT; env undoes that.
  for (const char* signal : {"INT", "TERM"}) {
    const Outcome outcome =
        Shell(absl::StrCat("env --default-signal=", signal, " ", NORMCTL_BINARY,
                           " bench --shape 8,4 --duration 60s --windows 1 & ", "until ", NORMCTL_BINARY,
                           " layer list --names | grep -q '^bench[.]'; do :; done; kill -", signal, " $!; wait $!"));
    EXPECT_EQ(outcome.code, 1) << signal << "\n" << outcome.err;
    EXPECT_THAT(outcome.err, HasSubstr("error: CANCELLED: interrupted before the first window was over")) << signal;
    EXPECT_THAT(Layers(), IsEmpty()) << signal;
  }
}

TEST_F(NormctlBenchTest, AServerThatIsNotThere) {
  const Outcome outcome = Run("bench --shape 8,4 --server unix:/nonexistent/normd.sock");
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.err, AllOf(StartsWith("error: UNAVAILABLE: "), HasSubstr("Start one with `normd`")));
  EXPECT_THAT(outcome.out, IsEmpty());
}

// Against a server that creates layers and answers infer as a test says.
class NormctlBenchFailureTest : public NormctlBenchTest {
 protected:
  NormctlBenchFailureTest() {
    fake_.create_layer = [](auto*, const v1::CreateLayerRequest& request, v1::CreateLayerResponse* response) {
      response->mutable_layer()->set_name(request.name());
      return grpc::Status::OK;
    };
    fake_.delete_layer = [](auto*, const v1::DeleteLayerRequest&, v1::DeleteLayerResponse*) {
      return grpc::Status::OK;
    };
  }

  Outcome Bench(const std::string& arguments) {
    Outcome outcome = Run(absl::StrCat("bench --shape 8,4 --server ", fake_.target(), " ", arguments));
    EXPECT_EQ(fake_.create_layer.requests().size(), 1U);
    EXPECT_EQ(fake_.delete_layer.requests().size(), 1U);
    EXPECT_THAT(fake_.create_layer.requests().at(0).name(), StartsWith("bench."));
    EXPECT_EQ(fake_.create_layer.requests().at(0).config().num_channels(), 4);
    EXPECT_EQ(fake_.delete_layer.requests().at(0).name(), fake_.create_layer.requests().at(0).name());
    return outcome;
  }

  static grpc::Status Fail(grpc::StatusCode code, const std::string& message) { return {code, message}; }

  testing::FakeServer fake_;
};

TEST_F(NormctlBenchFailureTest, NothingButFailures) {
  std::atomic<int> calls{0};
  fake_.infer = [&](auto*, const v1::InferRequest&, v1::InferResponse*) {
    return Fail(grpc::StatusCode::UNIMPLEMENTED, absl::StrCat("call ", ++calls));
  };
  const Outcome outcome = Bench("--warmup 0 --duration 1s --windows 2 --output json");
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.err, AllOf(StartsWith("error: UNIMPLEMENTED: "), HasSubstr("call 1\n"),
                                 HasSubstr("hint: is what listens at")));
  const json report = json::parse(outcome.out);
  ExpectConsistent(report);
  EXPECT_EQ(report["total"]["ok"], 0);
  EXPECT_EQ(report["total"]["errors"], json({{"UNIMPLEMENTED", report["total"]["requests"]}}));
  EXPECT_THAT(report["error_messages"]["UNIMPLEMENTED"].get<std::string>(), HasSubstr("call 1"));
}

TEST_F(NormctlBenchFailureTest, NothingButFailuresInTheWarmUpEndIt) {
  fake_.infer = [](auto*, const v1::InferRequest&, v1::InferResponse*) {
    return Fail(grpc::StatusCode::INTERNAL, "broken");
  };
  const Outcome outcome = Bench("--warmup 2s --duration 60s");
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.err, AllOf(StartsWith("error: INTERNAL: "), HasSubstr("broken")));
  EXPECT_THAT(outcome.out, IsEmpty());
}

TEST_F(NormctlBenchFailureTest, SomeFailuresAreCountedAndNotRetried) {
  std::atomic<int> calls{0};
  fake_.infer = [&](auto*, const v1::InferRequest& request, v1::InferResponse* response) {
    switch (++calls % 4) {
      case 0:
        return Fail(grpc::StatusCode::RESOURCE_EXHAUSTED, "queue full");
      case 1:
        return Fail(grpc::StatusCode::UNAVAILABLE, "gone");
      default:
        *response->mutable_y() = request.x();
        return grpc::Status::OK;
    }
  };
  const Outcome outcome = Bench("--warmup 0 --duration 0.3s --windows 1 --output json");
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  const json report = json::parse(outcome.out);
  ExpectConsistent(report);
  EXPECT_GT(report["total"]["errors"]["UNAVAILABLE"], 0);
  EXPECT_GT(report["total"]["errors"]["RESOURCE_EXHAUSTED"], 0);
  // At most one more was under way at the end.
  EXPECT_LE(calls - report["total"]["requests"].get<int>(), 1);
  EXPECT_THAT(report["error_messages"]["RESOURCE_EXHAUSTED"].get<std::string>(), HasSubstr("queue full"));
}

TEST_F(NormctlBenchFailureTest, AnInterruptDoesNotWaitForTheCallsUnderWayToDeleteTheLayer) {
  std::atomic<bool> deleted{false};
  fake_.infer = [&](grpc::ServerContext* context, const v1::InferRequest&, v1::InferResponse*) {
    std::ofstream(directory_.Path("started")).put('x');
    while (!context->IsCancelled()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    deleted = !fake_.delete_layer.requests().empty();
    return Fail(grpc::StatusCode::CANCELLED, "");
  };
  const Outcome outcome =
      Shell(absl::StrCat(NORMCTL_BINARY, " bench --shape 8,4 --server ", fake_.target(),
                         " --warmup 0 --duration 2s --timeout 3s & until [ -e $D/started ]; do :; done; kill -TERM $!; "
                         "wait $!"));
  EXPECT_EQ(outcome.code, 1);
  EXPECT_TRUE(deleted);
  EXPECT_THAT(outcome.err, StartsWith("error: CANCELLED: interrupted before the first window was over"))
      << "the windows that pass while it waits for the last call do not count";
  EXPECT_THAT(outcome.out, IsEmpty());
}

}  // namespace
}  // namespace normd
