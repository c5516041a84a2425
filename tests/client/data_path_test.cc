#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <future>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "client/cpp/src/tensor_call.h"
#include "normd/client.h"
#include "normd/testing/fake_server.h"
#include "tests/client/negated.h"

// What happens to the bytes of tensors on their way: where they are copied, who keeps them, where they end up.
namespace normd {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using testing::FakeServer;
using ::testing::HasSubstr;
using tests::Negated;

// More than a message of one piece holds, and no power of two.
constexpr int64_t kMany = 750'001;

std::vector<float> Ramp(int64_t count) {
  std::vector<float> values(static_cast<std::size_t>(count));
  std::iota(values.begin(), values.end(), 1.0F);
  return values;
}

template <typename T>
absl::Span<char> BytesOf(std::vector<T>& values) {
  return {reinterpret_cast<char*>(values.data()), values.size() * sizeof(T)};
}

// Every answer holds the elements of the request, negated: y = -x, dx = -dy.
class DataPathTest : public ::testing::Test {
 protected:
  DataPathTest() {
    server_.infer = [](auto*, const v1::InferRequest& request, v1::InferResponse* response) {
      *response->mutable_y() = request.x();
      response->mutable_y()->set_data(Negated(request.x().data()));
      if (request.version() == 1) response->mutable_y()->set_shape(0, 5);
      if (request.version() == 2) return grpc::Status(grpc::StatusCode::ABORTED, "no");
      if (request.version() == 3) {
        response->mutable_y()->set_shape(1, 2 * request.x().shape(1));
        response->mutable_y()->mutable_data()->append(request.x().data());
      }
      return grpc::Status::OK;
    };
    server_.denormalize = [](auto*, const v1::DenormalizeRequest& request, v1::DenormalizeResponse* response) {
      *response->mutable_x() = request.y();
      response->mutable_x()->set_data(Negated(request.y().data()));
      return grpc::Status::OK;
    };
    server_.train_step = [](auto*, const v1::TrainStepRequest& request, v1::TrainStepResponse* response) {
      response->set_version(1);
      if (request.layer() == "without y") return grpc::Status::OK;
      *response->mutable_y() = request.x();
      response->mutable_y()->set_data(Negated(request.x().data()));
      return grpc::Status::OK;
    };
    server_.backward = [](auto*, const v1::BackwardRequest& request, v1::BackwardResponse* response) {
      *response->mutable_dx() = request.dy();
      response->mutable_dx()->set_data(Negated(request.dy().data()));
      return grpc::Status::OK;
    };
  }

  FakeServer server_;
  std::unique_ptr<Client> client_ = Client::Connect(server_.target());
};

TEST_F(DataPathTest, EveryMethodWritesIntoTheCallersMemory) {
  const std::vector<float> x = Ramp(kMany);
  const std::vector<float> dy(x.rbegin(), x.rend());
  const TensorView x_view(absl::MakeConstSpan(x), {kMany, 1});
  const TensorView dy_view(absl::MakeConstSpan(dy), {kMany, 1});
  std::vector<float> out(x.size());
  const auto expect = [&](const Tensor& tensor, const std::vector<float>& input) {
    EXPECT_TRUE(tensor.empty()) << "the elements went elsewhere";
    EXPECT_EQ(tensor.bytes().size(), 0U);
    EXPECT_THAT(tensor.shape(), ElementsAre(kMany, 1));
    EXPECT_EQ(tensor.dtype(), DType::kFloat32);
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < out.size(); ++i) wrong += out[i] == -input[i] ? 0 : 1;
    EXPECT_EQ(wrong, 0U);
    out.assign(out.size(), 0.0F);
  };
  InferOptions infer;
  infer.into = BytesOf(out);
  expect(client_->Infer("a", x_view, infer).value().output, x);
  expect(client_->Denormalize("a", x_view, infer).value().output, x);
  TrainStepOptions train;
  train.into = BytesOf(out);
  expect(client_->TrainStep("a", x_view, train).value().y, x);
  BackwardOptions backward;
  backward.into = BytesOf(out);
  expect(client_->Backward("a", x_view, dy_view, backward).value().dx, dy);

  std::promise<absl::StatusOr<TrainStepResult>> promise;
  client_->TrainStepAsync("a", x_view, train, [&](auto result) { promise.set_value(std::move(result)); });
  expect(promise.get_future().get().value().y, x);
}

TEST_F(DataPathTest, TheResultMayReplaceTheInput) {
  std::vector<float> x = Ramp(kMany);
  InferOptions options;
  options.into = BytesOf(x);
  ASSERT_TRUE(client_->Infer("a", TensorView(absl::MakeConstSpan(x), {kMany, 1}), options).ok());
  EXPECT_EQ(x[0], -1);
  EXPECT_EQ(x.back(), -kMany);

  Tensor tensor = client_->AllocateTensor(DType::kFloat32, {2, 2}).value();
  const absl::Span<float> values = tensor.mutable_values<float>();
  values[0] = 1, values[1] = 2, values[2] = 3, values[3] = 4;
  options.into = tensor.mutable_bytes();
  ASSERT_TRUE(client_->Infer("a", tensor.view(), options).ok());
  EXPECT_THAT(tensor.values<float>(), ElementsAre(-1, -2, -3, -4));
}

TEST_F(DataPathTest, AFailedCallWritesNothing) {
  const std::vector<float> x = Ramp(4);
  const TensorView view(absl::MakeConstSpan(x), {2, 2});
  std::vector<float> out(4, 7.0F);
  struct Case {
    const char* name;
    int64_t version;
    std::size_t size;
    absl::StatusCode code;
  };
  const Case cases[] = {
      {"the answer does not fit itself", 1, 16, absl::StatusCode::kInternal},
      {"the server refuses", 2, 16, absl::StatusCode::kAborted},
      {"the answer is longer than the request", 3, 16, absl::StatusCode::kInternal},
      {"too short", 0, 12, absl::StatusCode::kInvalidArgument},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    InferOptions options;
    options.version = c.version;
    options.into = BytesOf(out).subspan(0, c.size);
    EXPECT_EQ(client_->Infer("a", view, options).status().code(), c.code);
    EXPECT_THAT(out, Each(7.0F));
  }
  EXPECT_EQ(server_.infer.requests().size(), 3U) << "an `into` that does not fit is not sent";

  TrainStepOptions train;
  train.into = BytesOf(out);
  EXPECT_EQ(client_->TrainStep("without y", view, train).status().code(), absl::StatusCode::kInternal);
  train.omit_output = true;
  const absl::Status omitted = client_->TrainStep("a", view, train).status();
  EXPECT_EQ(omitted.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(omitted.message()), AllOf(HasSubstr("layer 'a'"), HasSubstr("16 bytes, want 0")));
  BackwardOptions backward;
  backward.into = BytesOf(out);
  backward.omit_dx = true;
  EXPECT_EQ(client_->Backward("a", view, view, backward).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(out, Each(7.0F));
}

// The slice of `message` that starts at `data`, if there is one.
bool HasSliceAt(const grpc::ByteBuffer& message, const void* data) {
  std::vector<grpc::Slice> slices;
  EXPECT_TRUE(message.Dump(&slices).ok());
  for (const grpc::Slice& slice : slices) {
    if (slice.begin() == data) return true;
  }
  return false;
}

TEST(EncodeTest, OwnedElementsAreSentFromWhereTheyStand) {
  wire::BufferPool pool(1 << 30);
  const auto values = std::make_shared<const std::vector<float>>(Ramp(kMany));
  TensorView view(absl::MakeConstSpan(*values), {kMany, 1});
  for (const bool owned : {false, true}) {
    if (owned) view.owner = values;
    auto call = internal::InferCall("a", view, {}).value();
    ASSERT_TRUE(internal::OwnInputs(&call, &pool).ok());
    const grpc::ByteBuffer message = internal::Encode(call).Finish();
    EXPECT_EQ(HasSliceAt(message, values->data()), owned);
    EXPECT_EQ(HasSliceAt(message, call.inputs[0].tensor.data.data()), true);
    const grpc::ByteBuffer again = internal::Encode(call).Finish();
    EXPECT_EQ(HasSliceAt(again, call.inputs[0].tensor.data.data()), true) << "no second copy";
    EXPECT_EQ(pool.in_use_bytes() > 0, !owned);
  }
  view.owner = nullptr;
  EXPECT_EQ(values.use_count(), 1) << "nobody holds on to it";
  EXPECT_EQ(pool.in_use_bytes(), 0);
}

TEST_F(DataPathTest, TheOwnerIsLetGoOfWhenTheCallIsOver) {
  auto values = std::make_shared<const std::vector<float>>(Ramp(kMany));
  const std::weak_ptr<const std::vector<float>> watch = values;
  TensorView view(absl::MakeConstSpan(*values), {kMany, 1});
  view.owner = values;
  ASSERT_TRUE(client_->Infer("a", view).ok());
  std::promise<absl::StatusOr<InferResult>> promise;
  client_->InferAsync("a", view, {}, [&](auto result) { promise.set_value(std::move(result)); });
  view = {};
  values = nullptr;
  EXPECT_EQ(promise.get_future().get().value().output.values<float>().back(), -kMany);
  // gRPC has a moment of its own to notice that it has sent everything.
  while (!watch.expired()) std::this_thread::yield();
}

TEST_F(DataPathTest, ACallThatRanOutOfTimeKeepsItsBytes) {
  std::promise<void> promise;
  const std::shared_future<void> gate = promise.get_future().share();
  server_.backward = [gate](auto*, const v1::BackwardRequest&, v1::BackwardResponse*) {
    gate.wait();
    return grpc::Status::OK;
  };
  BackwardOptions options;
  options.timeout = absl::Milliseconds(20);
  for (int i = 0; i < 3; ++i) {
    // Many megabytes, of which the transport still holds most when the time is up: the server is not reading on.
    const auto x = std::make_unique<std::vector<double>>(4 << 20, 1.0);
    const TensorView borrowed(absl::MakeConstSpan(*x), {4 << 20, 1});
    Tensor owned = client_->AllocateTensor(DType::kFloat64, {4 << 20, 1}).value();
    std::memset(owned.mutable_bytes().data(), 1, owned.bytes().size());
    EXPECT_EQ(client_->Backward("a", borrowed, owned.view(), options).status().code(),
              absl::StatusCode::kDeadlineExceeded);
    // Whoever still reads them reads what was sent.
    std::memset(owned.mutable_bytes().data(), 2, owned.bytes().size());
  }
  promise.set_value();
}

TEST_F(DataPathTest, TheBudgetBoundsWhatIsCopiedToBeSent) {
  ClientOptions options;
  options.max_buffer_bytes = 1 << 20;
  const auto client = Client::Connect(server_.target(), options);
  const auto values = std::make_shared<const std::vector<float>>(Ramp(kMany));
  TensorView view(absl::MakeConstSpan(*values), {kMany, 1});
  const absl::Status status = client->Infer("a", view).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("3000004 bytes"), HasSubstr("max_buffer_bytes")));
  EXPECT_TRUE(server_.infer.requests().empty());
  std::promise<absl::Status> promise;
  client->InferAsync("a", view, {}, [&](const auto& result) { promise.set_value(result.status()); });
  EXPECT_EQ(promise.get_future().get().code(), absl::StatusCode::kResourceExhausted);
  view.owner = values;
  const auto result = client->Infer("a", view);
  ASSERT_TRUE(result.ok()) << "needs no copy, and the answer finds room: " << result.status();
  EXPECT_EQ(result->output.values<float>().back(), -kMany);
  EXPECT_TRUE(client->Infer("a", TensorView(absl::MakeConstSpan(*values).subspan(0, 4), {2, 2})).ok());
}

TEST_F(DataPathTest, ResultsOutliveTheClientAndFeedTheNextCall) {
  const std::vector<float> x = Ramp(kMany);
  Tensor y = client_->Infer("a", TensorView(absl::MakeConstSpan(x), {kMany, 1})).value().output;
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(y.bytes().data()) % 64, 0U);
  EXPECT_EQ(y.view().data.data(), y.bytes().data());
  EXPECT_NE(y.view().owner, nullptr);
  Tensor back = client_->Denormalize("a", y.view()).value().output;
  client_.reset();
  EXPECT_EQ(y.values<float>()[1], -2);
  EXPECT_EQ(back.values<float>().back(), kMany);
}

TEST(TensorTest, CopiesShareTheElementsUntilOneIsWrittenTo) {
  Tensor a = Tensor::Allocate(DType::kFloat32, {2, 3}).value();
  ASSERT_EQ(a.bytes().size(), 24U);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(a.bytes().data()) % 64, 0U);
  EXPECT_TRUE(a.mutable_values<double>().empty()) << "they are floats";
  const absl::Span<float> values = a.mutable_values<float>();
  std::iota(values.begin(), values.end(), 0.0F);
  EXPECT_EQ(values.data(), a.values<float>().data()) << "its own, so there is no need to copy";
  Tensor b = a;
  EXPECT_EQ(b.bytes().data(), a.bytes().data());
  b.mutable_values<float>()[0] = 9;
  EXPECT_THAT(a.values<float>(), ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_THAT(b.values<float>(), ElementsAre(9, 1, 2, 3, 4, 5));
  const TensorView view = a.view();
  a.mutable_values<float>()[1] = 8;
  EXPECT_EQ(reinterpret_cast<const float*>(view.data.data())[1], 1) << "what was handed out stays what it was";
  EXPECT_THAT(a.values<float>(), ElementsAre(0, 8, 2, 3, 4, 5));
  EXPECT_TRUE(Tensor().mutable_bytes().empty());
}

TEST_F(DataPathTest, AllocationsThatMakeNoSenseAreRefused) {
  constexpr int64_t kHuge = int64_t{1} << 61;
  for (const auto& shape : {std::vector<int64_t>{2, -1}, std::vector<int64_t>{kHuge, 8}}) {
    EXPECT_EQ(Tensor::Allocate(DType::kFloat64, shape).status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(client_->AllocateTensor(DType::kFloat64, shape).status().code(), absl::StatusCode::kInvalidArgument);
  }
// Sanitizers end a program that asks for so much.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  EXPECT_EQ(Tensor::Allocate(DType::kFloat32, {kHuge, 1}).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(client_->AllocateTensor(DType::kFloat32, {kHuge, 1}).status().code(), absl::StatusCode::kResourceExhausted);
#endif
  EXPECT_TRUE(Tensor::Allocate(DType::kFloat32, {0, 4}).value().empty());
  EXPECT_TRUE(client_->AllocateTensor(DType::kFloat32, {0, 4}).value().empty());
}

}  // namespace
}  // namespace normd
