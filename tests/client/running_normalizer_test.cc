#include "normd/running_normalizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "normd/client.h"
#include "normd/testing/fake_server.h"
#include "tests/integration/test_server.h"
#include "tests/non_finite.h"
#include "tests/status_matchers.h"

// The normalizer against the real server, judged by a pass in long double over everything that all actors have seen.
namespace normd {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using tests::IsOk;
using tests::kInf;
using tests::kNaN;
using tests::SomeValues;
using tests::StatusIs;
using Row = std::vector<double>;

const grpc::Status kNoNetwork(grpc::StatusCode::UNAVAILABLE, "no network");

// Long enough for any machine; what is waited for comes at once.
template <typename Future>
void ExpectSoon(const Future& future, const char* what) {
  EXPECT_EQ(future.wait_for(std::chrono::seconds(60)), std::future_status::ready) << "no " << what;
}

// Pushes only when told to.
RunningNormalizerOptions ByHand() {
  RunningNormalizerOptions options;
  options.push_every = absl::InfiniteDuration();
  return options;
}

// A server on the way to another one, whose merges fail as a test says: before the other has got them, and after.
class BadNetwork {
 public:
  using Failure = std::function<grpc::Status()>;

  explicit BadNetwork(tests::TestServer* server) {
    fake_.get_layer =
        Forward<v1::GetLayerRequest, v1::GetLayerResponse>(server->layers(), &v1::LayerService::Stub::GetLayer);
    fake_.create_layer = Forward<v1::CreateLayerRequest, v1::CreateLayerResponse>(server->layers(),
                                                                                  &v1::LayerService::Stub::CreateLayer);
    const auto merge = Forward<v1::MergeMomentsRequest, v1::MergeMomentsResponse>(
        server->normalization(), &v1::NormalizationService::Stub::MergeMoments);
    fake_.merge_moments = [this, merge](grpc::ServerContext* context, const v1::MergeMomentsRequest& request,
                                        v1::MergeMomentsResponse* response) {
      grpc::Status status = Fail(&before_);
      if (status.ok()) status = merge(context, request, response);
      if (status.ok()) status = Fail(&after_);
      return status;
    };
  }

  // No attempts but those that a test sees.
  std::unique_ptr<Client> Connect() const {
    ClientOptions options;
    options.retry.max_attempts = 1;
    return Client::Connect(fake_.target(), options);
  }
  void FailBefore(Failure failure) { Set(&before_, std::move(failure)); }
  void FailAfter(Failure failure) { Set(&after_, std::move(failure)); }

  std::vector<int64_t> Sequences() const {
    std::vector<int64_t> sequences;
    for (const v1::MergeMomentsRequest& request : fake_.merge_moments.requests()) {
      sequences.push_back(request.sequence());
    }
    return sequences;
  }

 private:
  template <typename Request, typename Response, typename Stub>
  static std::function<grpc::Status(grpc::ServerContext*, const Request&, Response*)> Forward(
      Stub& stub, grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*)) {
    return [&stub, method](grpc::ServerContext*, const Request& request, Response* response) {
      return tests::Call(stub, method, request, response);
    };
  }
  void Set(Failure* failure, Failure value) {
    const std::lock_guard<std::mutex> lock(mutex_);
    *failure = std::move(value);
  }
  grpc::Status Fail(Failure* failure) {
    Failure fail;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      fail = *failure;
    }
    return fail ? fail() : grpc::Status::OK;
  }

  std::mutex mutex_;
  Failure before_;
  Failure after_;
  testing::FakeServer fake_;
};

class RunningNormalizerTest : public ::testing::Test {
 protected:
  std::unique_ptr<RunningNormalizer> Open(int64_t num_channels,
                                          const RunningNormalizerOptions& options = ByHand()) const {
    return Open(client_.get(), num_channels, options);
  }
  static std::unique_ptr<RunningNormalizer> Open(Client* client, int64_t num_channels,
                                                 const RunningNormalizerOptions& options = ByHand()) {
    auto normalizer = RunningNormalizer::Open(client, "obs", num_channels, options);
    EXPECT_THAT(normalizer, IsOk());
    return normalizer.ok() ? *std::move(normalizer) : nullptr;
  }
  void Create(int64_t num_channels, const std::string& preset) {
    LayerSpec spec;
    spec.name = "obs";
    spec.preset = preset;
    spec.config.num_channels = num_channels;
    ASSERT_THAT(client_->CreateLayer(spec), IsOk());
  }
  Layer GetLayer() const { return client_->GetLayer("obs", true).value(); }

  tests::TestServer server_;
  std::unique_ptr<Client> client_ = Client::Connect(server_.address());
};

// `x` holds observations of num_channels numbers.
void ExpectStatistics(const RunningStatistics& got, const std::vector<double>& x, size_t num_channels) {
  const size_t rows = x.size() / num_channels;
  EXPECT_EQ(got.count, static_cast<double>(rows));
  ASSERT_THAT(got.mean, SizeIs(num_channels));
  ASSERT_THAT(got.var, SizeIs(num_channels));
  for (size_t c = 0; c < num_channels; ++c) {
    long double sum = 0;
    for (size_t row = 0; row < rows; ++row) sum += x[row * num_channels + c];
    const long double mean = sum / static_cast<long double>(rows);
    long double squares = 0;
    for (size_t row = 0; row < rows; ++row) squares += std::pow(x[row * num_channels + c] - mean, 2);
    const auto var = static_cast<double>(squares / static_cast<long double>(rows));
    EXPECT_NEAR(got.mean[c], static_cast<double>(mean), 1e-12 * (1 + std::abs(static_cast<double>(mean)))) << c;
    EXPECT_NEAR(got.var[c], var, 1e-11 * var) << c;
  }
}

std::vector<double> Together(const std::vector<double>& a, const std::vector<double>& b) {
  std::vector<double> all = a;
  all.insert(all.end(), b.begin(), b.end());
  return all;
}

TEST_F(RunningNormalizerTest, IsSharedByTwoActors) {
  const auto a = Open(3);
  const auto b = Open(3);
  EXPECT_NE(a->contributor(), b->contributor());
  const LayerConfig config = GetLayer().config;
  EXPECT_EQ(config.averaging, Averaging::kPooled);
  EXPECT_EQ(config.clip, 10);
  EXPECT_EQ(config.eps, 1e-8);

  const std::vector<double> x = SomeValues(150);
  const std::vector<double> z = SomeValues(21, 2);
  ASSERT_THAT(a->Observe(x), IsOk());
  // Local observations do not count before they are pushed.
  EXPECT_EQ(a->pending(), 50);
  EXPECT_EQ(a->statistics()->count, 0);
  EXPECT_THAT(a->statistics()->mean, ElementsAre(0, 0, 0));
  EXPECT_THAT(a->statistics()->var, ElementsAre(1, 1, 1));
  ASSERT_THAT(a->Flush(), IsOk());
  EXPECT_EQ(a->pending(), 0);
  ExpectStatistics(*a->statistics(), x, 3);
  EXPECT_EQ(b->statistics()->count, 0);
  const auto before = b->statistics();
  ASSERT_THAT(b->Observe(z), IsOk());
  ASSERT_THAT(b->Flush(), IsOk());
  ExpectStatistics(*b->statistics(), Together(x, z), 3);
  EXPECT_EQ(before->count, 0) << "a version stays what it is";
  // A push with nothing to send only pulls.
  const int64_t version = GetLayer().version;
  ASSERT_THAT(a->Flush(), IsOk());
  ExpectStatistics(*a->statistics(), Together(x, z), 3);
  EXPECT_EQ(a->statistics()->version, version);
  EXPECT_EQ(GetLayer().version, version);

  std::vector<double> y(x.size());
  ASSERT_THAT(a->Normalize(x, absl::MakeSpan(y)), IsOk());
  const auto statistics = a->statistics();
  for (size_t i = 0; i < y.size(); ++i) {
    const double want = (x[i] - statistics->mean[i % 3]) / std::sqrt(statistics->var[i % 3] + 1e-8);
    EXPECT_NEAR(y[i], std::clamp(want, -10.0, 10.0), 1e-14);
  }
  ASSERT_THAT(a->Denormalize(y, absl::MakeSpan(y)), IsOk());
  EXPECT_THAT(y, ::testing::Pointwise(::testing::DoubleNear(1e-12), x));
}

// Whatever the layer is set to, and wherever the elements stand.
TEST_F(RunningNormalizerTest, NormalizesToTheBitsOfTheServer) {
  Create(5, "reference");
  const auto normalizer = Open(5);
  ASSERT_THAT(normalizer->Observe(SomeValues(200)), IsOk());
  ASSERT_THAT(normalizer->Flush(), IsOk());
  // Somebody else's doing.
  LayerState state;
  state.gamma = {1, 2, -3, 0.25, 5};
  state.beta = {0, 1, -1, 1e-3, 7};
  ASSERT_THAT(client_->SetState("obs", state), IsOk());
  LayerConfig config;
  config.eps = 0.125;
  config.clip = 0.75;
  ASSERT_THAT(client_->UpdateLayer("obs", config, {"eps", "clip"}), IsOk());
  ASSERT_THAT(normalizer->Flush(), IsOk());
  EXPECT_EQ(normalizer->statistics()->gamma, state.gamma);
  EXPECT_EQ(normalizer->statistics()->beta, state.beta);
  EXPECT_EQ(normalizer->statistics()->eps, 0.125);
  EXPECT_EQ(normalizer->statistics()->clip, 0.75);

  const std::vector<double> f64 = SomeValues(630, 3);
  const std::vector<float> f32(f64.begin(), f64.end());
  std::vector<Float16> f16(f64.size());
  for (size_t i = 0; i < f16.size(); ++i) f16[i].bits = static_cast<uint16_t>(0x3800 + i);
  const std::vector<int64_t> first = {6, 5, 7, 3};
  const std::vector<int64_t> last = {6, 7, 3, 5};
  for (const TensorView& x :
       {TensorView(f64, first), TensorView(f32, first), TensorView(f16, first),
        TensorView(f64, last, Layout::kChannelsLast), TensorView(f32, last, Layout::kChannelsLast)}) {
    SCOPED_TRACE(NameOf(x.dtype));
    const auto inferred = client_->Infer("obs", x);
    ASSERT_THAT(inferred, IsOk());
    EXPECT_EQ(inferred->version, normalizer->statistics()->version);
    const auto back = client_->Denormalize("obs", x);
    ASSERT_THAT(back, IsOk());
    for (const size_t from : {0, 1}) {
      for (const size_t to : {0, 3}) {
        std::vector<char> in(x.data.size() + from);
        std::copy(x.data.begin(), x.data.end(), in.begin() + static_cast<std::ptrdiff_t>(from));
        std::vector<char> out(x.data.size() + to);
        TensorView moved = x;
        moved.data = absl::MakeConstSpan(in).subspan(from);
        ASSERT_THAT(normalizer->Normalize(moved, absl::MakeSpan(out).subspan(to)), IsOk());
        EXPECT_EQ(absl::MakeConstSpan(out).subspan(to), inferred->output.bytes());
        ASSERT_THAT(normalizer->Denormalize(moved, absl::MakeSpan(out).subspan(to)), IsOk());
        EXPECT_EQ(absl::MakeConstSpan(out).subspan(to), back->output.bytes());
        // In place.
        ASSERT_THAT(normalizer->Normalize(moved, absl::MakeSpan(in).subspan(from)), IsOk());
        EXPECT_EQ(moved.data, inferred->output.bytes());
      }
    }
  }

  state.gamma[3] = 0;
  ASSERT_THAT(client_->SetState("obs", state), IsOk());
  ASSERT_THAT(normalizer->Flush(), IsOk());
  std::vector<double> x(5);
  EXPECT_THAT(normalizer->Denormalize(x, absl::MakeSpan(x)),
              StatusIs(absl::StatusCode::kFailedPrecondition, "layer 'obs': gamma[3] * inv_std[3] is 0"));
}

TEST_F(RunningNormalizerTest, ClipsOrDoesNot) {
  RunningNormalizerOptions options = ByHand();
  options.clip = 2.0;
  std::vector<float> y(4);
  ASSERT_THAT(Open(1, options)->Normalize({-100, 1.5, 100, NAN}, absl::MakeSpan(y)), IsOk());
  EXPECT_THAT(y, ElementsAre(-2, 1.5F, 2, ::testing::IsNan()));
  ASSERT_THAT(client_->DeleteLayer("obs"), IsOk());
  options.clip.reset();
  options.eps = 0.5;
  const auto without = Open(1, options);
  EXPECT_EQ(GetLayer().config.clip, std::nullopt);
  EXPECT_EQ(GetLayer().config.eps, 0.5);
  ASSERT_THAT(without->Normalize({-100, 1.5, 100, NAN}, absl::MakeSpan(y)), IsOk());
  EXPECT_NEAR(y[2], 100 / std::sqrt(1.5), 1e-5);
}

TEST_F(RunningNormalizerTest, RefusesWhatItCannotTake) {
  const auto normalizer = Open(3);
  std::vector<float> five(5);
  std::vector<float> six(6);
  const auto misfit = [](const char* text) { return StatusIs(absl::StatusCode::kInvalidArgument, text); };
  EXPECT_THAT(normalizer->Observe(five), misfit("layer 'obs': x of shape [1, 3] and 20 bytes"));
  EXPECT_THAT(normalizer->Normalize(five, absl::MakeSpan(five)), misfit("layer 'obs': x of shape [1, 3]"));
  EXPECT_THAT(normalizer->Denormalize(five, absl::MakeSpan(five)), misfit("layer 'obs': y of shape [1, 3]"));
  EXPECT_THAT(normalizer->Normalize(six, absl::MakeSpan(five)), misfit("y has room for 20 bytes, want 24"));
  EXPECT_THAT(normalizer->Denormalize(six, absl::MakeSpan(five)), misfit("x has room for 20 bytes, want 24"));
  EXPECT_THAT(normalizer->Observe(TensorView(six, {3, 2})), misfit("layer 'obs': x has 2 channels, want 3"));
  EXPECT_THAT(normalizer->Observe(Row{1, 2, 3, 4, 5, kInf}), misfit("x holds 1 NaN or infinite values"));
  EXPECT_EQ(normalizer->pending(), 0);
  // Nothing at all is fine.
  EXPECT_THAT(normalizer->Observe(absl::Span<const float>()), IsOk());
  EXPECT_THAT(normalizer->Normalize(absl::Span<const float>(), {}), IsOk());
  EXPECT_THAT(normalizer->Denormalize(absl::Span<const float>(), {}), IsOk());
  EXPECT_THAT(normalizer->Flush(), IsOk());

  EXPECT_THAT(RunningNormalizer::Open(client_.get(), "obs", 4),
              StatusIs(absl::StatusCode::kFailedPrecondition, "layer 'obs' has 3 channels, want 4"));
  LayerSpec off;
  off.name = "off";
  off.config.num_channels = 3;
  off.config.track_running_stats = false;
  ASSERT_THAT(client_->CreateLayer(off), IsOk());
  EXPECT_THAT(RunningNormalizer::Open(client_.get(), "off", 3),
              StatusIs(absl::StatusCode::kFailedPrecondition, "keeps no running statistics"));
  RunningNormalizerOptions options;
  options.create = false;
  EXPECT_THAT(RunningNormalizer::Open(client_.get(), "nobody", 3, options), StatusIs(absl::StatusCode::kNotFound));

  const std::pair<const char*, std::function<void(RunningNormalizerOptions*)>> wrong[] = {
      {"clip is 0", [](auto* o) { o->clip = 0; }},
      {"clip is nan", [](auto* o) { o->clip = kNaN; }},
      {"eps is 0", [](auto* o) { o->eps = 0; }},
      {"eps is inf", [](auto* o) { o->eps = kInf; }},
      {"push_every is 0", [](auto* o) { o->push_every = absl::ZeroDuration(); }},
      {"push_batches is -1", [](auto* o) { o->push_batches = -1; }},
      {"push_timeout is -1s", [](auto* o) { o->push_timeout = -absl::Seconds(1); }},
  };
  for (const auto& [text, change] : wrong) {
    RunningNormalizerOptions bad;
    change(&bad);
    EXPECT_THAT(RunningNormalizer::Open(client_.get(), "obs", 3, bad), misfit(text));
  }
  EXPECT_THAT(RunningNormalizer::Open(client_.get(), "obs", 0), misfit("num_channels is 0"));
}

TEST_F(RunningNormalizerTest, SkipsNonFiniteValuesIfTold) {
  RunningNormalizerOptions options = ByHand();
  options.skip_non_finite = true;
  const auto normalizer = Open(2, options);
  ASSERT_THAT(normalizer->Observe(Row{1, kNaN, 3, kInf, 5, -kInf}), IsOk());
  ASSERT_THAT(normalizer->Flush(), IsOk());
  EXPECT_THAT(normalizer->statistics()->mean, ElementsAre(3, 0));
  EXPECT_EQ(normalizer->statistics()->count, 3);
  EXPECT_THAT(GetLayer().state->sample_count, ElementsAre(3, 0));
  ASSERT_THAT(normalizer->Observe(Row{7.0, 2.0, 9.0, 4.0}), IsOk());
  ASSERT_THAT(normalizer->Flush(), IsOk());
  EXPECT_THAT(normalizer->statistics()->mean, ElementsAre(5, 3));
  EXPECT_THAT(normalizer->statistics()->var, ElementsAre(8, 1));
}

TEST_F(RunningNormalizerTest, AFailedPushCountsOnce) {
  BadNetwork network(&server_);
  const auto client = network.Connect();
  const auto normalizer = Open(client.get(), 2);
  const std::vector<double> x = SomeValues(80);
  const auto part = [&x](size_t i) { return absl::MakeConstSpan(x).subspan(i * 20, 20); };
  const auto first = [&x](int parts) { return std::vector<double>(x.begin(), x.begin() + 20 * parts); };
  ASSERT_THAT(normalizer->Observe(part(0)), IsOk());
  ASSERT_THAT(normalizer->Flush(), IsOk());

  // Lost on the way there.
  network.FailBefore([] { return kNoNetwork; });
  ASSERT_THAT(normalizer->Observe(part(1)), IsOk());
  for (int i = 0; i < 2; ++i) {
    EXPECT_THAT(normalizer->Flush(), StatusIs(absl::StatusCode::kUnavailable, "no network"));
  }
  EXPECT_THAT(normalizer->last_status(), StatusIs(absl::StatusCode::kUnavailable, "no network"));
  EXPECT_EQ(normalizer->pending(), 10);
  ExpectStatistics(*normalizer->statistics(), first(1), 2);
  // Lost on the way back: the server has it.
  network.FailBefore(nullptr);
  network.FailAfter([] { return kNoNetwork; });
  EXPECT_THAT(normalizer->Flush(), StatusIs(absl::StatusCode::kUnavailable));
  ASSERT_THAT(normalizer->Observe(part(2)), IsOk());
  EXPECT_EQ(normalizer->pending(), 20);
  EXPECT_THAT(GetLayer().state->sample_count, Each(20));
  EXPECT_THAT(normalizer->Flush(), StatusIs(absl::StatusCode::kUnavailable));
  network.FailAfter(nullptr);
  ASSERT_THAT(normalizer->Flush(), IsOk());
  EXPECT_EQ(normalizer->pending(), 0);
  EXPECT_THAT(normalizer->last_status(), IsOk());
  ExpectStatistics(*normalizer->statistics(), first(3), 2);
  const std::vector<int64_t> sequences = network.Sequences();
  ASSERT_THAT(sequences, SizeIs(7));
  const int64_t one = sequences[0];
  EXPECT_THAT(sequences, ElementsAre(one, one + 1, one + 1, one + 1, one + 1, one + 1, one + 2));

  ASSERT_THAT(normalizer->Observe(part(3)), IsOk());
  ASSERT_THAT(normalizer->Flush(), IsOk());
  ExpectStatistics(*normalizer->statistics(), x, 2);
}

TEST_F(RunningNormalizerTest, ARefusedPushWaitsForMore) {
  // This layer takes no single value: its variance divides by n - 1.
  LayerSpec spec;
  spec.name = "obs";
  spec.preset = "pytorch";
  spec.config.num_channels = 1;
  spec.config.update_weight = 1;
  ASSERT_THAT(client_->CreateLayer(spec), IsOk());
  const auto normalizer = Open(1);
  ASSERT_THAT(normalizer->Observe(Row{1.0}), IsOk());
  EXPECT_THAT(normalizer->Flush(), StatusIs(absl::StatusCode::kInvalidArgument, "want at least 2"));
  EXPECT_EQ(normalizer->pending(), 1);
  ASSERT_THAT(normalizer->Observe(Row{3.0}), IsOk());
  ASSERT_THAT(normalizer->Flush(), IsOk());
  EXPECT_THAT(normalizer->statistics()->mean, ElementsAre(2));
  EXPECT_THAT(normalizer->statistics()->var, ElementsAre(2));
  EXPECT_EQ(normalizer->pending(), 0);
}

TEST_F(RunningNormalizerTest, OutlivesItsLayer) {
  const auto normalizer = Open(1);
  ASSERT_THAT(normalizer->Observe(Row{2.0}), IsOk());
  ASSERT_THAT(client_->DeleteLayer("obs"), IsOk());
  EXPECT_THAT(normalizer->Flush(), StatusIs(absl::StatusCode::kNotFound));
  Create(2, "rl_observation");
  EXPECT_THAT(normalizer->Flush(), StatusIs(absl::StatusCode::kInvalidArgument, "has 1 entries, want 2"));
  ASSERT_THAT(client_->DeleteLayer("obs"), IsOk());
  Create(1, "rl_observation");
  ASSERT_THAT(normalizer->Flush(), IsOk());
  EXPECT_THAT(normalizer->statistics()->mean, ElementsAre(2));
  ASSERT_THAT(client_->DeleteLayer("obs"), IsOk());
  Create(2, "rl_observation");
  EXPECT_THAT(normalizer->Flush(),
              StatusIs(absl::StatusCode::kFailedPrecondition, "layer 'obs' has 2 channels, want 1"));
  EXPECT_THAT(normalizer->statistics()->mean, ElementsAre(2));
}

TEST_F(RunningNormalizerTest, ANameCanComeBack) {
  RunningNormalizerOptions options = ByHand();
  options.contributor = "actor-0";
  for (const double value : {1.0, 3.0}) {
    const auto normalizer = Open(1, options);
    EXPECT_EQ(normalizer->contributor(), "actor-0");
    ASSERT_THAT(normalizer->Observe(Row{value}), IsOk());
  }
  const LayerState state = *GetLayer().state;
  EXPECT_THAT(state.running_mean, ElementsAre(2));
  EXPECT_THAT(state.sample_count, ElementsAre(2));
}

TEST_F(RunningNormalizerTest, ManyActors) {
  constexpr size_t kActors = 6;
  constexpr size_t kBatches = 40;
  constexpr size_t kValues = 20;  // Five observations.
  const std::vector<double> x = SomeValues(kActors * kBatches * kValues);
  std::vector<std::thread> actors;
  for (size_t a = 0; a < kActors; ++a) {
    actors.emplace_back([&, a] {
      const auto client = Client::Connect(server_.address());
      RunningNormalizerOptions options;
      options.push_every = absl::Milliseconds(1);
      const auto normalizer = Open(client.get(), 4, options);
      ASSERT_NE(normalizer, nullptr);
      std::vector<double> y(kValues);
      for (size_t b = 0; b < kBatches; ++b) {
        const auto batch = absl::MakeConstSpan(x).subspan((a * kBatches + b) * kValues, kValues);
        EXPECT_THAT(normalizer->Observe(batch), IsOk());
        EXPECT_THAT(normalizer->Normalize(batch, absl::MakeSpan(y)), IsOk());
        for (const double value : y) EXPECT_LE(std::abs(value), 10);
      }
    });
  }
  for (std::thread& actor : actors) actor.join();
  ExpectStatistics(*Open(4)->statistics(), x, 4);
  EXPECT_THAT(GetLayer().state->sample_count, Each(kActors * kBatches * 5));
}

TEST_F(RunningNormalizerTest, ThreadsShareANormalizerOverABadNetwork) {
  constexpr size_t kThreads = 8;
  constexpr size_t kBatches = 50;
  BadNetwork network(&server_);
  // Called by one push at a time.
  const auto chance = [](uint32_t seed) {
    return [random = std::make_shared<std::minstd_rand>(seed)] {
      return (*random)() % 10 < 3 ? kNoNetwork : grpc::Status::OK;
    };
  };
  network.FailBefore(chance(1));
  network.FailAfter(chance(2));
  const auto client = network.Connect();
  RunningNormalizerOptions options;
  options.push_every = absl::Milliseconds(1);
  options.push_batches = 3;
  options.on_warning = [](absl::string_view) {};
  const auto normalizer = Open(client.get(), 3, options);
  const std::vector<double> x = SomeValues(kThreads * kBatches * 3);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      std::vector<double> y(3);
      for (size_t b = 0; b < kBatches; ++b) {
        const auto row = absl::MakeConstSpan(x).subspan((t * kBatches + b) * 3, 3);
        EXPECT_THAT(normalizer->Observe(row), IsOk());
        EXPECT_THAT(normalizer->Normalize(row, absl::MakeSpan(y)), IsOk());
        // Threads may push, too.
        if (b % 16 == 15) (void)normalizer->Flush();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  while (!normalizer->Flush().ok()) {
  }
  EXPECT_EQ(normalizer->pending(), 0);
  ExpectStatistics(*normalizer->statistics(), x, 3);
  EXPECT_THAT(GetLayer().state->sample_count, Each(kThreads * kBatches));
}

TEST_F(RunningNormalizerTest, PushesInTheBackground) {
  BadNetwork network(&server_);
  const auto client = network.Connect();
  std::promise<void> by_batches;
  network.FailAfter([&by_batches, once = std::make_shared<std::once_flag>()] {
    std::call_once(*once, [&] { by_batches.set_value(); });
    return grpc::Status::OK;
  });
  {
    // Only the number of batches can be what starts it.
    RunningNormalizerOptions options = ByHand();
    options.push_batches = 2;
    const auto normalizer = Open(client.get(), 1, options);
    ASSERT_THAT(normalizer->Observe(Row{1.0}), IsOk());
    EXPECT_THAT(network.Sequences(), IsEmpty());
    ASSERT_THAT(normalizer->Observe(Row{3.0}), IsOk());
    ExpectSoon(by_batches.get_future(), "push for two batches");
  }
  std::promise<void> by_time;
  network.FailAfter([&by_time, once = std::make_shared<std::once_flag>()] {
    std::call_once(*once, [&] { by_time.set_value(); });
    return grpc::Status::OK;
  });
  {
    RunningNormalizerOptions options;
    options.push_every = absl::Milliseconds(10);
    const auto normalizer = Open(client.get(), 1, options);
    ASSERT_THAT(normalizer->Observe(Row{5.0}), IsOk());
    ExpectSoon(by_time.get_future(), "push by time");
    // What is left goes at the end.
    ASSERT_THAT(normalizer->Observe(Row{7.0}), IsOk());
  }
  network.FailAfter(nullptr);
  EXPECT_THAT(GetLayer().state->running_mean, ElementsAre(4));
  EXPECT_THAT(GetLayer().state->sample_count, ElementsAre(4));
}

TEST_F(RunningNormalizerTest, FailuresInTheBackgroundAreToldOnceAndMadeUpFor) {
  BadNetwork network(&server_);
  const auto client = network.Connect();
  std::promise<void> third;
  network.FailBefore([&third, attempts = std::make_shared<int>(0)] {
    if (++*attempts == 3) third.set_value();
    return kNoNetwork;
  });
  std::vector<std::string> warnings;
  RunningNormalizerOptions options;
  options.push_every = absl::Milliseconds(1);
  options.on_warning = [&warnings](absl::string_view text) { warnings.emplace_back(text); };
  {
    const auto normalizer = Open(client.get(), 1, options);
    ASSERT_THAT(normalizer->Observe(Row{2.0}), IsOk());
    ExpectSoon(third.get_future(), "third attempt");
    EXPECT_THAT(normalizer->last_status(), StatusIs(absl::StatusCode::kUnavailable, "no network"));
    network.FailBefore(nullptr);
  }
  EXPECT_THAT(warnings, ElementsAre(HasSubstr("pushing to layer 'obs' failed, and will be tried again: UNAVAILABLE")));
  EXPECT_THAT(GetLayer().state->sample_count, ElementsAre(1));
}

// Holds the first merge of a BadNetwork until it is let go.
class Held {
 public:
  ~Held() { LetGo(); }

  // May outlive this.
  BadNetwork::Failure Hold() {
    return [state = state_] {
      if (!state->first.exchange(false)) return grpc::Status::OK;
      state->asked.set_value();
      state->let_go_future.wait();
      return grpc::Status::OK;
    };
  }
  void AwaitAsked() { ExpectSoon(state_->asked.get_future(), "merge"); }
  void LetGo() {
    if (!std::exchange(let_go_, true)) state_->let_go.set_value();
  }

 private:
  struct State {
    std::atomic<bool> first = true;
    std::promise<void> asked;
    std::promise<void> let_go;
    std::shared_future<void> let_go_future = let_go.get_future().share();
  };
  const std::shared_ptr<State> state_ = std::make_shared<State>();
  bool let_go_ = false;
};

TEST_F(RunningNormalizerTest, NothingButAPushWaitsForAPush) {
  BadNetwork network(&server_);
  const auto client = network.Connect();
  Held held;
  network.FailBefore(held.Hold());
  RunningNormalizerOptions options = ByHand();
  options.push_batches = 2;
  options.push_timeout = absl::Minutes(2);
  const auto normalizer = Open(client.get(), 1, options);
  ASSERT_THAT(normalizer->Observe(Row{1, 2}), IsOk());
  ASSERT_THAT(normalizer->Observe(Row{3}), IsOk());
  held.AwaitAsked();
  EXPECT_THAT(normalizer->Flush(absl::ZeroDuration()), StatusIs(absl::StatusCode::kDeadlineExceeded, "another push"));
  Row y = {6};
  EXPECT_THAT(normalizer->Observe(y), IsOk());
  EXPECT_THAT(normalizer->Normalize(y, absl::MakeSpan(y)), IsOk());
  EXPECT_THAT(normalizer->last_status(), IsOk());
  EXPECT_EQ(normalizer->pending(), 4);
  held.LetGo();
  ASSERT_THAT(normalizer->Flush(), IsOk());
  EXPECT_EQ(normalizer->pending(), 0);
  ExpectStatistics(*normalizer->statistics(), {1, 2, 3, 6}, 1);
}

TEST_F(RunningNormalizerTest, AnAttemptThatComesLateCountsNothing) {
  for (const bool on_the_way_back : {false, true}) {
    SCOPED_TRACE(on_the_way_back);
    std::promise<void> late;
    BadNetwork network(&server_);
    const auto client = network.Connect();
    Held held;
    (on_the_way_back ? network.FailAfter(held.Hold()) : network.FailBefore(held.Hold()));
    const auto normalizer = Open(client.get(), 1);
    const double before = normalizer->statistics()->count;
    ASSERT_THAT(normalizer->Observe(Row{1, 2}), IsOk());
    EXPECT_THAT(normalizer->Flush(absl::Seconds(1)), StatusIs(absl::StatusCode::kDeadlineExceeded));
    held.AwaitAsked();
    EXPECT_EQ(normalizer->pending(), 2);
    ASSERT_THAT(normalizer->Observe(Row{3}), IsOk());
    ASSERT_THAT(normalizer->Flush(), IsOk());
    EXPECT_EQ(normalizer->statistics()->count, before + 3);
    if (!on_the_way_back) {
      network.FailAfter([&late] {
        late.set_value();
        return grpc::Status::OK;
      });
    }
    held.LetGo();
    if (!on_the_way_back) ExpectSoon(late.get_future(), "late merge");
    EXPECT_THAT(GetLayer().state->sample_count, ElementsAre(before + 3));
    EXPECT_THAT(network.Sequences(), SizeIs(3));
  }
}

TEST_F(RunningNormalizerTest, EndsInTimeWhenTheServerDoesNotAnswer) {
  BadNetwork network(&server_);
  const auto client = network.Connect();
  std::promise<void> answer;
  network.FailBefore([answered = answer.get_future().share()] {
    answered.wait();
    return kNoNetwork;
  });
  std::vector<std::string> warnings;
  RunningNormalizerOptions options = ByHand();
  options.push_timeout = absl::Milliseconds(200);
  options.push_batches = 2;
  options.on_warning = [&warnings](absl::string_view text) { warnings.emplace_back(text); };
  {
    const auto normalizer = Open(client.get(), 1, options);
    ASSERT_THAT(normalizer->Observe(Row{1, 2}), IsOk());
    ASSERT_THAT(normalizer->Observe(Row{3}), IsOk());
  }
  // It has ended, though there is no answer yet.
  answer.set_value();
  ASSERT_THAT(warnings, ::testing::Not(IsEmpty()));
  EXPECT_THAT(warnings.back(), HasSubstr("3 observations are lost to layer 'obs': DEADLINE_EXCEEDED"));
}

}  // namespace
}  // namespace normd
