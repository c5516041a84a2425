#include <gmock/gmock.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <iterator>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "client/cpp/src/client.h"
#include "normd/testing/fake_server.h"
#include "normd/v1/error_details.pb.h"
#include "normd/v1/layer_service.grpc.pb.h"
#include "tests/client/fake_runtime.h"

namespace normd {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using testing::FakeRuntime;
using testing::FakeServer;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

const std::vector<float> kX = {1, 2, 3, 4};

TensorView X() { return TensorView(absl::MakeConstSpan(kX), {2, 2}); }

class RetryTest : public ::testing::Test {
 protected:
  // Answers UNAVAILABLE `failures` times, then OK.
  void FailFirst(int failures) {
    server_.train_step = [this, failures](grpc::ServerContext*, const v1::TrainStepRequest&,
                                          v1::TrainStepResponse* response) -> grpc::Status {
      if (calls_++ < failures) return {grpc::StatusCode::UNAVAILABLE, "draining"};
      response->set_version(7);
      return grpc::Status::OK;
    };
  }

  std::unique_ptr<Client> MakeClient(const ClientOptions& options = {}) {
    return internal::MakeClient(server_.target(), options, runtime_);
  }

  std::vector<std::string> SentIds() const {
    std::vector<std::string> ids;
    for (const auto& request : server_.train_step.requests()) ids.push_back(request.request_id());
    return ids;
  }

  FakeServer server_;
  std::shared_ptr<FakeRuntime> runtime_ = std::make_shared<FakeRuntime>();
  std::atomic<int> calls_{0};
};

TEST_F(RetryTest, RepeatsWithTheSameRequestIdAndGrowingPauses) {
  FailFirst(3);
  runtime_->uniform = 0.0;  // The least pause: half of the backoff.
  const auto client = MakeClient();
  const auto result = client->TrainStep("a", X());
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->version, 7);
  EXPECT_THAT(SentIds(), ElementsAre("id-1", "id-1", "id-1", "id-1"));
  EXPECT_THAT(runtime_->sleeps(), ElementsAre(absl::Milliseconds(25), absl::Milliseconds(50), absl::Milliseconds(100)));
}

// A call that comes while gRPC's server stops is CANCELLED by it, which nobody here has done.
TEST_F(RetryTest, AStoppingServerIsTriedAgain) {
  server_.train_step = [this](grpc::ServerContext*, const v1::TrainStepRequest&,
                              v1::TrainStepResponse* response) -> grpc::Status {
    if (calls_++ < 2) return {grpc::StatusCode::CANCELLED, "CANCELLED"};
    response->set_version(7);
    return grpc::Status::OK;
  };
  const auto client = MakeClient();
  EXPECT_EQ(client->TrainStep("a", X())->version, 7);
  EXPECT_THAT(SentIds(), ElementsAre("id-1", "id-1", "id-1"));

  calls_ = 0;
  ClientOptions once;
  once.retry.max_attempts = 1;
  const auto impatient = MakeClient(once);
  const absl::Status status = impatient->TrainStep("a", X()).status();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("the server is stopping"));
}

TEST_F(RetryTest, AMergeIsRepeatedAsItWas) {
  server_.merge_moments = [this](grpc::ServerContext*, const v1::MergeMomentsRequest&,
                                 v1::MergeMomentsResponse* response) -> grpc::Status {
    if (calls_++ == 0) return {grpc::StatusCode::UNAVAILABLE, "the answer is lost"};
    response->set_version(3);
    response->set_content_hash("ff");
    response->add_running_mean(2);
    response->add_running_var(4);
    response->add_sample_count(5);
    response->set_num_batches_tracked(6);
    response->set_replayed(true);
    return grpc::Status::OK;
  };
  MergeMomentsOptions options;
  options.contributor = "actor";
  options.sequence = 8;
  const Moments moments{.count = {5}, .mean = {2}, .m2 = {20}, .min = {-1}, .max = {7}, .non_finite_count = {1}};
  const auto result = MakeClient()->MergeMoments("a", moments, options);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->version, 3);
  EXPECT_EQ(result->content_hash, "ff");
  EXPECT_THAT(result->running_mean, ElementsAre(2));
  EXPECT_THAT(result->running_var, ElementsAre(4));
  EXPECT_THAT(result->sample_count, ElementsAre(5));
  EXPECT_EQ(result->num_batches_tracked, 6);
  EXPECT_TRUE(result->replayed);

  const auto requests = server_.merge_moments.requests();
  ASSERT_EQ(requests.size(), 2);
  EXPECT_EQ(requests[0].SerializeAsString(), requests[1].SerializeAsString());
  EXPECT_EQ(requests[0].request_id(), "id-1");
  EXPECT_EQ(requests[0].layer(), "a");
  EXPECT_EQ(requests[0].contributor(), "actor");
  EXPECT_EQ(requests[0].sequence(), 8);
  EXPECT_THAT(requests[0].moments().count(), ElementsAre(5));
  EXPECT_THAT(requests[0].moments().mean(), ElementsAre(2));
  EXPECT_THAT(requests[0].moments().m2(), ElementsAre(20));
  EXPECT_THAT(requests[0].moments().min(), ElementsAre(-1));
  EXPECT_THAT(requests[0].moments().max(), ElementsAre(7));
  EXPECT_THAT(requests[0].moments().non_finite_count(), ElementsAre(1));
}

TEST_F(RetryTest, PausesUpToTheWholeBackoffAndNoLongerThanTheMost) {
  FailFirst(4);
  runtime_->uniform = 1.0;
  ClientOptions options;
  options.retry = {.max_attempts = 5,
                   .initial_backoff = absl::Milliseconds(100),
                   .max_backoff = absl::Milliseconds(350),
                   .multiplier = 3.0};
  ASSERT_TRUE(MakeClient(options)->TrainStep("a", X()).ok());
  EXPECT_THAT(runtime_->sleeps(), ElementsAre(absl::Milliseconds(100), absl::Milliseconds(300), absl::Milliseconds(350),
                                              absl::Milliseconds(350)));
}

TEST_F(RetryTest, GivesUpAfterTheLastAttempt) {
  FailFirst(100);
  const auto result = MakeClient()->TrainStep("a", X());
  EXPECT_EQ(result.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(result.status().message()),
              AllOf(HasSubstr("draining"), HasSubstr("4 attempts"), HasSubstr(server_.target()), HasSubstr("id-1")));
  EXPECT_EQ(calls_, 4);
}

TEST_F(RetryTest, OneAttemptMeansNoRetry) {
  FailFirst(1);
  ClientOptions options;
  options.retry.max_attempts = 1;
  EXPECT_EQ(MakeClient(options)->TrainStep("a", X()).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(calls_, 1);
  EXPECT_THAT(runtime_->sleeps(), IsEmpty());
}

TEST_F(RetryTest, DoesNotPausePastTheTimeout) {
  FailFirst(100);
  ClientOptions options;
  options.retry = {.max_attempts = 10, .initial_backoff = absl::Seconds(1), .max_backoff = absl::Seconds(60)};
  options.timeout = absl::Seconds(2);
  // Least pauses of 0.5 s, 1 s, then 2 s, which is more than the 0.5 s left.
  EXPECT_EQ(MakeClient(options)->TrainStep("a", X()).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(runtime_->sleeps(), ElementsAre(absl::Milliseconds(500), absl::Seconds(1)));
}

TEST_F(RetryTest, TheTimeoutCoversAllAttempts) {
  // The first attempt "takes" 20 s; the second one must be sent with the 10 s that are left of 30, not with 30 again.
  std::vector<double> left_s;
  server_.train_step = [&](grpc::ServerContext* context, const v1::TrainStepRequest&,
                           v1::TrainStepResponse*) -> grpc::Status {
    left_s.push_back(absl::ToDoubleSeconds(absl::FromChrono(context->deadline()) - absl::Now()));
    runtime_->Advance(absl::Seconds(20));
    if (left_s.size() == 1) return {grpc::StatusCode::UNAVAILABLE, "draining"};
    return grpc::Status::OK;
  };
  ASSERT_TRUE(MakeClient()->TrainStep("a", X()).ok());
  ASSERT_EQ(server_.train_step.requests().size(), 2U);
  ASSERT_EQ(left_s.size(), 2U);
  EXPECT_NEAR(left_s[0], 30, 5);
  EXPECT_LE(left_s[1], 10);
  EXPECT_GT(left_s[1], 5);
}

TEST_F(RetryTest, OtherCodesAreAnswersAndNotRepeated) {
  server_.train_step = [](grpc::ServerContext*, const v1::TrainStepRequest& request, v1::TrainStepResponse*) {
    return grpc::Status(static_cast<grpc::StatusCode>(std::stoi(request.layer())), "no");
  };
  const auto client = MakeClient();
  std::size_t calls = 0;
  for (const absl::StatusCode code :
       {absl::StatusCode::kInvalidArgument, absl::StatusCode::kNotFound, absl::StatusCode::kAborted,
        absl::StatusCode::kResourceExhausted, absl::StatusCode::kInternal, absl::StatusCode::kDeadlineExceeded}) {
    EXPECT_EQ(client->TrainStep(std::to_string(static_cast<int>(code)), X()).status().code(), code);
    EXPECT_EQ(server_.train_step.requests().size(), ++calls) << code;
  }
  EXPECT_THAT(runtime_->sleeps(), IsEmpty());
}

// What rides on a RESOURCE_EXHAUSTED that asks to wait.
std::string Details(const std::string& type, int64_t seconds, int32_t nanos) {
  v1::RetryInfo info;
  info.mutable_retry_delay()->set_seconds(seconds);
  info.mutable_retry_delay()->set_nanos(nanos);
  v1::ErrorStatus status;
  status.add_details()->set_type_url("type.googleapis.com/google.rpc.ErrorInfo");
  status.mutable_details(0)->set_value("not read");
  status.add_details()->set_type_url("type.googleapis.com/" + type);
  status.mutable_details(1)->set_value(info.SerializeAsString());
  return status.SerializeAsString();
}

TEST_F(RetryTest, WaitsAsLongAsTheServerAsks) {
  std::string details = Details("google.rpc.RetryInfo", 1, 500'000'000);
  server_.train_step = [&](auto*, const auto&, v1::TrainStepResponse* response) -> grpc::Status {
    if (calls_++ < 2) return {grpc::StatusCode::RESOURCE_EXHAUSTED, "busy", details};
    response->set_version(7);
    return grpc::Status::OK;
  };
  const auto client = MakeClient();
  const auto result = client->TrainStep("a", X());
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(SentIds(), ElementsAre("id-1", "id-1", "id-1"));
  EXPECT_THAT(runtime_->sleeps(), ElementsAre(absl::Seconds(1.5), absl::Seconds(1.5)));

  runtime_->uniform = 1.0;
  calls_ = 1;
  std::promise<absl::Status> promise;
  client->TrainStepAsync("a", X(), {}, [&](const auto& step) { promise.set_value(step.status()); });
  EXPECT_TRUE(promise.get_future().get().ok());
  EXPECT_THAT(runtime_->scheduled(), ElementsAre(absl::Seconds(2.25))) << "half as long again at most";

  // The policy and the timeout still hold.
  calls_ = -100;
  EXPECT_EQ(client->TrainStep("a", X()).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(calls_, -96);
  calls_ = 1;
  TrainStepOptions options;
  options.timeout = absl::Seconds(2);
  EXPECT_EQ(client->TrainStep("a", X(), options).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(calls_, 2);
  EXPECT_EQ(SentIds().size(), 10U);
}

TEST_F(RetryTest, OnlyARetryInfoAsksForARetry) {
  struct Case {
    const char* name;
    grpc::StatusCode code;
    std::string details;
  };
  const Case cases[] = {
      {"no details", grpc::StatusCode::RESOURCE_EXHAUSTED, ""},
      {"details that are none", grpc::StatusCode::RESOURCE_EXHAUSTED, "\xff\xff"},
      {"another detail", grpc::StatusCode::RESOURCE_EXHAUSTED, Details("google.rpc.QuotaFailure", 1, 0)},
      {"a name that only ends like it", grpc::StatusCode::RESOURCE_EXHAUSTED,
       Details("not.google.rpc.RetryInfo", 1, 0)},
      {"another code", grpc::StatusCode::INVALID_ARGUMENT, Details("google.rpc.RetryInfo", 1, 0)},
  };
  server_.train_step = [&](auto*, const v1::TrainStepRequest& request, auto*) -> grpc::Status {
    const Case& c = cases[std::stoi(request.layer())];
    return {c.code, "no", c.details};
  };
  const auto client = MakeClient();
  for (std::size_t i = 0; i < std::size(cases); ++i) {
    SCOPED_TRACE(cases[i].name);
    EXPECT_EQ(static_cast<int>(client->TrainStep(std::to_string(i), X()).status().code()), cases[i].code);
    EXPECT_EQ(server_.train_step.requests().size(), i + 1);
  }
  EXPECT_THAT(runtime_->sleeps(), IsEmpty());
}

TEST_F(RetryTest, TheCallersRequestIdWins) {
  FailFirst(1);
  TrainStepOptions options;
  options.request_id = "mine";
  ASSERT_TRUE(MakeClient()->TrainStep("a", X(), options).ok());
  EXPECT_THAT(SentIds(), ElementsAre("mine", "mine"));
}

TEST_F(RetryTest, EveryCallHasAnIdOfItsOwn) {
  FailFirst(0);
  const auto client = MakeClient();
  ASSERT_TRUE(client->TrainStep("a", X()).ok());
  ASSERT_TRUE(client->TrainStep("a", X()).ok());
  EXPECT_THAT(SentIds(), ElementsAre("id-1", "id-2"));
}

TEST_F(RetryTest, TheSystemsIdsAreUnique) {
  std::set<std::string> ids;
  for (int i = 0; i < 1000; ++i) ids.insert(internal::Runtime::System()->NewRequestId());
  EXPECT_EQ(ids.size(), 1000U);
  for (const std::string& id : ids) ASSERT_EQ(id.size(), 32U);
}

TEST_F(RetryTest, AsynchronousCallsRepeatTheSameWayAndBlockNoThread) {
  FailFirst(3);
  const auto client = MakeClient();
  std::promise<absl::StatusOr<TrainStepResult>> promise;
  client->TrainStepAsync("a", X(), {}, [&](absl::StatusOr<TrainStepResult> result) { promise.set_value(result); });
  const auto result = promise.get_future().get();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->version, 7);
  EXPECT_THAT(SentIds(), ElementsAre("id-1", "id-1", "id-1", "id-1"));
  EXPECT_THAT(runtime_->sleeps(), IsEmpty());
  EXPECT_THAT(runtime_->scheduled(),
              ElementsAre(absl::Milliseconds(25), absl::Milliseconds(50), absl::Milliseconds(100)));
}

TEST_F(RetryTest, AsynchronousCallsGiveUpToo) {
  FailFirst(100);
  const auto client = MakeClient();
  std::promise<absl::Status> promise;
  client->TrainStepAsync("a", X(), {},
                         [&](const absl::StatusOr<TrainStepResult>& result) { promise.set_value(result.status()); });
  EXPECT_EQ(promise.get_future().get().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(calls_, 4);
}

TEST(UnreachableTest, NamesTheTargetAndTheAttempts) {
  const auto runtime = std::make_shared<FakeRuntime>();
  const auto client = internal::MakeClient("unix:/nonexistent/normd.sock", {}, runtime);
  const absl::Status status = client->GetLayer("a").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("unix:/nonexistent/normd.sock"), HasSubstr("4 attempts")));
  EXPECT_EQ(runtime->sleeps().size(), 3U);
}

TEST(ReconnectTest, ACallSurvivesARestartOfTheServer) {
  // With the real clock: the pauses must be of use, that is, gRPC must try to connect again within them.
  auto first = std::make_unique<FakeServer>();
  first->get_layer = [](grpc::ServerContext*, const v1::GetLayerRequest&, v1::GetLayerResponse*) {
    return grpc::Status::OK;
  };
  ClientOptions options;
  options.retry.max_attempts = 50;
  const auto client = Client::Connect(first->target(), options);
  ASSERT_TRUE(client->GetLayer("a").ok());
  const std::string target = first->target();
  first.reset();

  auto waiting = std::async(std::launch::async, [&] { return client->GetLayer("a").status(); });
  v1::LayerService::Service layers;  // Answers UNIMPLEMENTED to everything.
  grpc::ServerBuilder builder;
  builder.AddListeningPort(target, grpc::InsecureServerCredentials());
  builder.RegisterService(&layers);
  const auto second = builder.BuildAndStart();
  ASSERT_NE(second, nullptr);
  EXPECT_EQ(waiting.get().code(), absl::StatusCode::kUnimplemented);
}

}  // namespace
}  // namespace normd
