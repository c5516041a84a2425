// What those who run a server ask of it: statistics, log level, traces and slow calls in the log.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "normd/v1/admin_service.grpc.pb.h"
#include "server/app/trace_context.h"
#include "tests/integration/captured_log.h"
#include "tests/integration/test_server.h"

namespace normd::tests {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class AdminServiceTest : public ::testing::Test {
 protected:
  void Start(const app::ServerOptions& options = TestOptions()) {
    server_ = std::make_unique<TestServer>(options, log_);
    admin_ = v1::AdminService::NewStub(server_->channel());
  }

  v1::ServerStatistics Statistics(int max_layers = 0) {
    v1::GetStatisticsRequest request;
    request.set_max_layers(max_layers);
    v1::GetStatisticsResponse response;
    EXPECT_THAT(Call(*admin_, &v1::AdminService::Stub::GetStatistics, request, &response), GrpcIsOk());
    return response.statistics();
  }

  grpc::Status Train(const std::string& layer, const std::string& traceparent = "") {
    v1::TrainStepRequest request;
    request.set_layer(layer);
    request.set_request_id("");
    *request.mutable_x() = MakeTensor<float>({4, 2}, {1, 2, 3, 4, 5, 6, 7, 9});
    v1::TrainStepResponse response;
    grpc::ClientContext context;
    if (!traceparent.empty()) context.AddMetadata("traceparent", traceparent);
    return server_->normalization().TrainStep(&context, request, &response);
  }

  std::shared_ptr<CapturedLog> log_ = std::make_shared<CapturedLog>();
  std::unique_ptr<TestServer> server_;
  std::unique_ptr<v1::AdminService::Stub> admin_;
};

TEST_F(AdminServiceTest, StatisticsCountWhatSeveralThreadsCall) {
  Start();
  for (const char* name : {"a", "b", "c"}) server_->Create(name, 2);
  constexpr int kThreads = 4;
  constexpr int kSteps = 50;
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([this] {
      for (int step = 0; step < kSteps; ++step) EXPECT_THAT(Train("b"), GrpcIsOk());
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(Train("c"), GrpcIsOk());
  EXPECT_EQ(Train("nobody").error_code(), grpc::NOT_FOUND);

  const v1::ServerStatistics statistics = Statistics(2);
  std::map<std::string, v1::MethodStatistics> methods;
  for (const v1::MethodStatistics& method : statistics.methods()) methods[method.method()] = method;
  std::map<int, int64_t> codes;
  for (const v1::CodeCount& code : methods["TrainStep"].codes()) codes[code.code()] = code.count();
  EXPECT_EQ(codes, (std::map<int, int64_t>{{grpc::OK, kThreads * kSteps + 1}, {grpc::NOT_FOUND, 1}}));
  const v1::DurationDistribution& duration = methods["TrainStep"].duration();
  EXPECT_EQ(std::accumulate(duration.counts().begin(), duration.counts().end(), int64_t{0}), kThreads * kSteps + 2);
  EXPECT_EQ(duration.counts_size(), duration.bounds_seconds_size() + 1);
  EXPECT_GT(duration.sum_seconds(), 0);
  EXPECT_EQ(methods["CreateLayer"].codes(0).count(), 3);
  // The one that asks.
  EXPECT_EQ(statistics.calls_in_flight(), 1);
  EXPECT_EQ(statistics.num_layers(), 3);
  EXPECT_EQ(statistics.folds(), kThreads * kSteps + 1);
  ASSERT_EQ(statistics.layers_size(), 2);
  EXPECT_EQ(statistics.layers(0).name(), "b");
  EXPECT_EQ(statistics.layers(0).folds(), kThreads * kSteps);
  EXPECT_EQ(statistics.layers(0).num_batches_tracked(), kThreads * kSteps);
  EXPECT_EQ(statistics.layers(1).name(), "c");
  EXPECT_FALSE(statistics.layers(1).has_mean_drift()) << "there was nothing to compare the first batch with";
  EXPECT_GT(statistics.process().resident_bytes(), 0);
  EXPECT_GT(statistics.buffers().budget_bytes(), 0);
}

TEST_F(AdminServiceTest, RefusesNumbersOutOfRange) {
  Start();
  for (const int layers : {-1, 10'001}) {
    v1::GetStatisticsRequest request;
    request.set_max_layers(layers);
    v1::GetStatisticsResponse response;
    EXPECT_THAT(Call(*admin_, &v1::AdminService::Stub::GetStatistics, request, &response),
                GrpcStatusIs(grpc::INVALID_ARGUMENT, AllOf(HasSubstr("max_layers is "), HasSubstr("0 to 10000"))));
  }
}

TEST_F(AdminServiceTest, ChangesTheLogLevelOfARunningServer) {
  Start();
  const auto set = [&](v1::LogLevel level, v1::LogLevel* before) {
    v1::SetLogLevelRequest request;
    request.set_level(level);
    v1::SetLogLevelResponse response;
    const grpc::Status status = Call(*admin_, &v1::AdminService::Stub::SetLogLevel, request, &response);
    *before = response.previous_level();
    return status;
  };
  v1::LogLevel before{};
  EXPECT_THAT(set(v1::LOG_LEVEL_WARN, &before), GrpcIsOk());
  EXPECT_EQ(before, v1::LOG_LEVEL_DEBUG);
  EXPECT_THAT(log_->Text(), HasSubstr("level=warn message=\"log level changed\" from=debug to=warn"));
  server_->Create("silent", 2);
  EXPECT_THAT(log_->Text(), Not(HasSubstr("silent")));
  EXPECT_THAT(set(v1::LOG_LEVEL_DEBUG, &before), GrpcIsOk());
  EXPECT_EQ(before, v1::LOG_LEVEL_WARN);
  server_->Create("loud", 2);
  EXPECT_THAT(log_->Text(), HasSubstr("layer=loud"));

  EXPECT_THAT(set(v1::LOG_LEVEL_UNSPECIFIED, &before), GrpcStatusIs(grpc::INVALID_ARGUMENT, HasSubstr("level is 0")));
  EXPECT_THAT(set(static_cast<v1::LogLevel>(9), &before),
              GrpcStatusIs(grpc::INVALID_ARGUMENT, HasSubstr("level is 9")));
  v1::GetLogLevelResponse response;
  EXPECT_THAT(Call(*admin_, &v1::AdminService::Stub::GetLogLevel, v1::GetLogLevelRequest(), &response), GrpcIsOk());
  EXPECT_EQ(response.level(), v1::LOG_LEVEL_DEBUG);
}

TEST_F(AdminServiceTest, SlowCallsAreWarnedOf) {
  app::ServerOptions options = TestOptions();
  options.log_slow_calls_after = absl::Nanoseconds(1);
  Start(options);
  server_->Create("a", 2);
  EXPECT_THAT(log_->Text(), HasSubstr("level=warn message=\"slow call\" method=CreateLayer layer=a"));
}

TEST_F(AdminServiceTest, OnlyTheLineOfACallNamesItsTrace) {
  Start();
  server_->Create("a", 2);
  ASSERT_THAT(Train("a", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"), GrpcIsOk());
  EXPECT_THAT(log_->Text(), HasSubstr(" trace_id=4bf92f3577b34da6a3ce929d0e0e4736 span_id=00f067aa0ba902b7\n"));
  log_->Clear();
  ASSERT_THAT(Train("a", "00-00000000000000000000000000000000-00f067aa0ba902b7-01"), GrpcIsOk());
  ASSERT_THAT(Train("a"), GrpcIsOk());
  EXPECT_THAT(log_->Text(), AllOf(HasSubstr("method=TrainStep"), Not(HasSubstr("trace_id"))));
}

// The cases of the standard's section 3.2.
TEST(Traceparent, IsTakenOrIgnoredAsTheStandardSays) {
  const std::string trace = "0af7651916cd43dd8448eb211c80319c";
  const std::string span = "b7ad6b7169203331";
  for (const std::string& good :
       {"00-" + trace + "-" + span + "-01", "00-" + trace + "-" + span + "-ff", "01-" + trace + "-" + span + "-00",
        "cc-" + trace + "-" + span + "-01-what-the-future-will-be-like"}) {
    const std::optional<app::TraceContext> context = app::ParseTraceparent(good);
    ASSERT_TRUE(context.has_value()) << good;
    EXPECT_EQ(context->trace_id, trace);
    EXPECT_EQ(context->span_id, span);
  }
  for (const std::string& bad :
       {std::string(), "00-" + trace + "-" + span, "00-" + trace + "-" + span + "-1",
        "ff-" + trace + "-" + span + "-01", "00-" + trace + "-" + span + "-01-more",
        "cc-" + trace + "-" + span + "-01.more", "00-" + std::string(32, '0') + "-" + span + "-01",
        "00-" + trace + "-" + std::string(16, '0') + "-01", "00-0AF7651916CD43DD8448EB211C80319C-" + span + "-01",
        "00_" + trace + "-" + span + "-01", "00-" + trace + "_" + span + "-01", "00-" + trace + "-" + span + "_01",
        "00-" + trace + "-" + span + "-0x", "0x-" + trace + "-" + span + "-01", " 00-" + trace + "-" + span + "-0"}) {
    EXPECT_FALSE(app::ParseTraceparent(bad).has_value()) << bad;
  }
}

}  // namespace
}  // namespace normd::tests
