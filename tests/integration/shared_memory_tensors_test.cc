// Tensors in shared memory: the results of tensors in the message, and what happens to bad ranges.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "normd/v1/shared_memory_service.grpc.pb.h"
#include "tests/integration/test_server.h"
#include "tests/server/shm/shm_object.h"

namespace normd::tests {
namespace {

using ::testing::HasSubstr;

using Normalization = v1::NormalizationService::Stub;

constexpr int64_t kRegionBytes = 1 << 20;
// Where the tests put things.
constexpr int64_t kX = 4096;
constexpr int64_t kDy = 256 << 10;
constexpr int64_t kY = 512 << 10;

class SharedMemoryTensorsTest : public ::testing::Test {
 protected:
  SharedMemoryTensorsTest() : server_(Options()), object_(kRegionBytes) {
    stub_ = v1::SharedMemoryService::NewStub(server_.channel());
    stream_ = stub_->OpenSession(&context_, v1::OpenSessionRequest());
    EXPECT_TRUE(stream_->Read(&session_));
    region_ = Register(object_);
    server_.Create("message", 3, "pytorch");
    server_.Create("shared", 3, "pytorch");
  }
  ~SharedMemoryTensorsTest() override {
    context_.TryCancel();
    stream_->Finish();
  }

  static app::ServerOptions Options() {
    app::ServerOptions options = TestOptions();
    options.shared_memory = true;
    return options;
  }

  std::string Register(ShmObject& object, int64_t size_bytes = kRegionBytes) {
    object.Write(0, session_.key());
    v1::RegisterRegionRequest request;
    request.set_session(session_.session());
    request.set_name(object.name());
    request.set_size_bytes(size_bytes);
    v1::RegisterRegionResponse response;
    EXPECT_THAT(Call(*stub_, &v1::SharedMemoryService::Stub::RegisterRegion, request, &response), GrpcIsOk());
    return response.region();
  }

  v1::SharedMemoryRange Range(int64_t offset) const {
    v1::SharedMemoryRange range;
    range.set_region(region_);
    range.set_offset(offset);
    return range;
  }

  // Moves the data of `tensor` into the region.
  void Move(int64_t offset, v1::Tensor* tensor) {
    object_.Write(offset, tensor->data());
    tensor->clear_data();
    *tensor->mutable_shared_memory() = Range(offset);
  }

  // Expects that `tensor` stands in the region, and moves it into the message.
  void Fetch(int64_t offset, std::size_t bytes, v1::Tensor* tensor) {
    EXPECT_EQ(tensor->data(), "");
    EXPECT_EQ(tensor->shared_memory().region(), region_);
    EXPECT_EQ(tensor->shared_memory().offset(), offset);
    tensor->clear_shared_memory();
    tensor->set_data(object_.Read(offset, static_cast<int64_t>(bytes)));
  }

  TestServer server_;
  ShmObject object_;
  std::unique_ptr<v1::SharedMemoryService::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<v1::OpenSessionResponse>> stream_;
  v1::OpenSessionResponse session_;
  std::string region_;
};

v1::Tensor SomeX() {
  const std::vector<double> values = SomeValues(64 * 3 * 5);
  return MakeTensor<float>({64, 3, 5}, std::vector<float>(values.begin(), values.end()));
}

TEST_F(SharedMemoryTensorsTest, EveryMethodGivesTheBitsOfTheMessage) {
  const std::size_t bytes = SomeX().data().size();
  v1::TrainStepRequest train;
  train.set_layer("message");
  *train.mutable_x() = SomeX();
  v1::TrainStepResponse want_trained;
  ASSERT_THAT(Call(server_.normalization(), &Normalization::TrainStep, train, &want_trained), GrpcIsOk());
  train.set_layer("shared");
  Move(kX, train.mutable_x());
  *train.mutable_y_shared_memory() = Range(kY);
  v1::TrainStepResponse trained;
  ASSERT_THAT(Call(server_.normalization(), &Normalization::TrainStep, train, &trained), GrpcIsOk());
  Fetch(kY, bytes, trained.mutable_y());
  EXPECT_EQ(trained.SerializeAsString(), want_trained.SerializeAsString());

  v1::InferRequest infer;
  infer.set_layer("message");
  *infer.mutable_x() = SomeX();
  v1::InferResponse want_inferred;
  ASSERT_THAT(Call(server_.normalization(), &Normalization::Infer, infer, &want_inferred), GrpcIsOk());
  infer.set_layer("shared");
  Move(kX, infer.mutable_x());
  // From the region into the message,
  v1::InferResponse inferred;
  ASSERT_THAT(Call(server_.normalization(), &Normalization::Infer, infer, &inferred), GrpcIsOk());
  EXPECT_EQ(inferred.SerializeAsString(), want_inferred.SerializeAsString());
  EXPECT_EQ(object_.Read(kX, static_cast<int64_t>(bytes)), SomeX().data()) << "the input is the client's";
  // into the region,
  *infer.mutable_y_shared_memory() = Range(kY);
  ASSERT_THAT(Call(server_.normalization(), &Normalization::Infer, infer, &inferred), GrpcIsOk());
  Fetch(kY, bytes, inferred.mutable_y());
  EXPECT_EQ(inferred.SerializeAsString(), want_inferred.SerializeAsString());
  // and from the message into the region.
  *infer.mutable_x() = SomeX();
  ASSERT_THAT(Call(server_.normalization(), &Normalization::Infer, infer, &inferred), GrpcIsOk());
  Fetch(kY, bytes, inferred.mutable_y());
  EXPECT_EQ(inferred.SerializeAsString(), want_inferred.SerializeAsString());

  v1::DenormalizeRequest back;
  back.set_layer("message");
  *back.mutable_y() = want_inferred.y();
  v1::DenormalizeResponse want_back;
  ASSERT_THAT(Call(server_.normalization(), &Normalization::Denormalize, back, &want_back), GrpcIsOk());
  Move(kX, back.mutable_y());
  *back.mutable_x_shared_memory() = Range(kY);
  v1::DenormalizeResponse denormalized;
  ASSERT_THAT(Call(server_.normalization(), &Normalization::Denormalize, back, &denormalized), GrpcIsOk());
  Fetch(kY, bytes, denormalized.mutable_x());
  EXPECT_EQ(denormalized.SerializeAsString(), want_back.SerializeAsString());

  v1::BackwardRequest backward;
  backward.set_layer("message");
  *backward.mutable_x() = SomeX();
  *backward.mutable_dy() = want_inferred.y();
  *backward.mutable_batch_mean() = want_trained.batch_mean();
  *backward.mutable_batch_var() = want_trained.batch_var();
  v1::BackwardResponse want_gradients;
  ASSERT_THAT(Call(server_.normalization(), &Normalization::Backward, backward, &want_gradients), GrpcIsOk());
  Move(kX, backward.mutable_x());
  Move(kDy, backward.mutable_dy());
  *backward.mutable_dx_shared_memory() = Range(kY);
  v1::BackwardResponse gradients;
  ASSERT_THAT(Call(server_.normalization(), &Normalization::Backward, backward, &gradients), GrpcIsOk());
  Fetch(kY, bytes, gradients.mutable_dx());
  EXPECT_EQ(gradients.SerializeAsString(), want_gradients.SerializeAsString());
}

TEST_F(SharedMemoryTensorsTest, BadRangesAreNamedAndChangeNothing) {
  const auto bytes = static_cast<int64_t>(SomeX().data().size());
  v1::TrainStepRequest good;
  good.set_layer("shared");
  *good.mutable_x() = SomeX();
  Move(kX, good.mutable_x());
  *good.mutable_y_shared_memory() = Range(kY);
  const int64_t version = server_.Get("shared").version();
  struct Case {
    const char* what;
    std::function<void(v1::TrainStepRequest*)> change;
    grpc::StatusCode code;
    const char* message;
  };
  const std::vector<Case> cases = {
      {"data as well", [](auto* r) { r->mutable_x()->set_data("12345678"); }, grpc::INVALID_ARGUMENT,
       "x has 8 bytes of data and stands in shared memory"},
      {"x leaves the region",
       [&](auto* r) { r->mutable_x()->mutable_shared_memory()->set_offset(kRegionBytes - bytes + 4); },
       grpc::INVALID_ARGUMENT, "1048576"},
      {"y leaves the region", [&](auto* r) { r->mutable_y_shared_memory()->set_offset(kRegionBytes - bytes + 4); },
       grpc::INVALID_ARGUMENT, "1048576"},
      {"offset overflows", [](auto* r) { r->mutable_x()->mutable_shared_memory()->set_offset(INT64_MAX - 3); },
       grpc::INVALID_ARGUMENT, "offset"},
      {"negative", [](auto* r) { r->mutable_x()->mutable_shared_memory()->set_offset(-4); }, grpc::INVALID_ARGUMENT,
       "-4"},
      {"within an element", [](auto* r) { r->mutable_x()->mutable_shared_memory()->set_offset(kX + 2); },
       grpc::INVALID_ARGUMENT, "4098"},
      {"a shape larger than the region", [](auto* r) { r->mutable_x()->set_shape(0, int64_t{1} << 40); },
       grpc::INVALID_ARGUMENT, "1048576"},
      {"a shape that overflows", [](auto* r) { r->mutable_x()->set_shape(0, int64_t{1} << 61); },
       grpc::INVALID_ARGUMENT, "64 bits"},
      {"y over x", [](auto* r) { r->mutable_y_shared_memory()->set_offset(kX); }, grpc::INVALID_ARGUMENT,
       "overlaps that of an input"},
      {"y over a part of x", [&](auto* r) { r->mutable_y_shared_memory()->set_offset(kX + bytes - 4); },
       grpc::INVALID_ARGUMENT, "overlap"},
      {"no such region", [](auto* r) { r->mutable_x()->mutable_shared_memory()->set_region("other"); }, grpc::NOT_FOUND,
       "region"},
  };
  for (const Case& c : cases) {
    v1::TrainStepRequest request = good;
    c.change(&request);
    v1::TrainStepResponse response;
    EXPECT_THAT(Call(server_.normalization(), &Normalization::TrainStep, request, &response),
                GrpcStatusIs(c.code, AllOf(HasSubstr("layer 'shared'"), HasSubstr(c.message))))
        << c.what;
  }
  EXPECT_EQ(server_.Get("shared").version(), version);
}

TEST_F(SharedMemoryTensorsTest, OneObjectRegisteredTwiceOverlapsItself) {
  v1::InferRequest request;
  request.set_layer("shared");
  *request.mutable_x() = SomeX();
  Move(kX, request.mutable_x());
  *request.mutable_y_shared_memory() = Range(kX);
  request.mutable_y_shared_memory()->set_region(Register(object_));
  v1::InferResponse response;
  EXPECT_THAT(Call(server_.normalization(), &Normalization::Infer, request, &response),
              GrpcStatusIs(grpc::INVALID_ARGUMENT, HasSubstr("overlaps")));
}

TEST_F(SharedMemoryTensorsTest, ARegionCutShortIsDataLossAndChangesNothing) {
  v1::TrainStepRequest train;
  train.set_layer("shared");
  *train.mutable_x() = SomeX();
  Move(kX, train.mutable_x());
  v1::TrainStepResponse response;
  ASSERT_THAT(Call(server_.normalization(), &Normalization::TrainStep, train, &response), GrpcIsOk());
  object_.Truncate(8192);
  EXPECT_THAT(Call(server_.normalization(), &Normalization::TrainStep, train, &response),
              GrpcStatusIs(grpc::DATA_LOSS, HasSubstr("layer 'shared'")));
  EXPECT_EQ(server_.Get("shared").state().num_batches_tracked(), 1);
}

TEST_F(SharedMemoryTensorsTest, ARegionCutShortUnderACallIsNeverFoldedIn) {
  constexpr int64_t kBytes = 8 << 20;
  std::vector<float> fives(kBytes / sizeof(float), 5.0F);
  const std::string data(reinterpret_cast<const char*>(fives.data()), kBytes);
  v1::TrainStepRequest train;
  train.set_layer("shared");
  train.set_omit_output(true);
  for (const int64_t extent : {kBytes / 4 / 3 / 128, int64_t{3}, int64_t{128}}) train.mutable_x()->add_shape(extent);
  train.mutable_x()->set_dtype(v1::DATA_TYPE_FLOAT32);
  int lost = 0;
  int64_t folded = 0;
  // Cut short at another moment each time, until some were cut short in the middle.
  for (int i = 0; i < 60; ++i) {
    ShmObject object(kRegionBytes + kBytes);
    object.Write(kRegionBytes, data);
    train.mutable_x()->mutable_shared_memory()->set_region(Register(object, kRegionBytes + kBytes));
    train.mutable_x()->mutable_shared_memory()->set_offset(kRegionBytes);
    std::thread cutter([&object, i] {
      const auto until = std::chrono::steady_clock::now() + std::chrono::microseconds(50 * i);
      while (std::chrono::steady_clock::now() < until) {
      }
      object.Truncate(kRegionBytes);
    });
    v1::TrainStepResponse response;
    const grpc::Status status = Call(server_.normalization(), &Normalization::TrainStep, train, &response);
    cutter.join();
    if (status.ok()) {
      ++folded;
      EXPECT_THAT(response.batch_mean(), ::testing::ElementsAre(5, 5, 5)) << "zeros of a lost page were folded in";
    } else {
      ++lost;
      EXPECT_THAT(status, GrpcStatusIs(grpc::DATA_LOSS, HasSubstr("layer 'shared'")));
    }
  }
  EXPECT_GT(lost, 0);
  EXPECT_EQ(server_.Get("shared").state().num_batches_tracked(), folded);
}

TEST_F(SharedMemoryTensorsTest, ARegionGoesWithItsSession) {
  v1::InferRequest request;
  request.set_layer("shared");
  *request.mutable_x() = SomeX();
  Move(kX, request.mutable_x());
  v1::InferResponse response;
  ASSERT_THAT(Call(server_.normalization(), &Normalization::Infer, request, &response), GrpcIsOk());
  v1::UnregisterRegionRequest unregister;
  unregister.set_session(session_.session());
  unregister.set_region(region_);
  v1::UnregisterRegionResponse unregistered;
  ASSERT_THAT(Call(*stub_, &v1::SharedMemoryService::Stub::UnregisterRegion, unregister, &unregistered), GrpcIsOk());
  EXPECT_THAT(Call(server_.normalization(), &Normalization::Infer, request, &response),
              GrpcStatusIs(grpc::NOT_FOUND, HasSubstr("layer 'shared'")));
}

TEST(SharedMemoryOff, ATensorInItIsRefused) {
  TestServer server;
  server.Create("bn", 3);
  v1::InferRequest request;
  request.set_layer("bn");
  *request.mutable_x() = SomeX();
  request.mutable_x()->clear_data();
  request.mutable_x()->mutable_shared_memory()->set_region("0123");
  v1::InferResponse response;
  EXPECT_THAT(Call(server.normalization(), &Normalization::Infer, request, &response),
              GrpcStatusIs(grpc::FAILED_PRECONDITION, HasSubstr("--shared-memory")));
}

}  // namespace
}  // namespace normd::tests
