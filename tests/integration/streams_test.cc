// The streams of NormalizationService, judged by the unary methods: the same bits, however a tensor is cut.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/integration/test_server.h"

namespace normd::tests {
namespace {

using ::testing::HasSubstr;

using Normalization = v1::NormalizationService::Stub;

// A stream with a deadline far away.
template <typename Request, typename Response>
class Stream {
 public:
  using Open = std::unique_ptr<grpc::ClientReaderWriter<Request, Response>> (Normalization::*)(grpc::ClientContext*);
  Stream(TestServer& server, Open open) {
    context_.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    stream_ = (server.normalization().*open)(&context_);
  }

  bool Send(const Request& request) { return stream_->Write(request); }
  void SendNoMore() { stream_->WritesDone(); }
  bool Receive(Response* response) { return stream_->Read(response); }
  // What is left unread, and the status.
  grpc::Status End() {
    Response response;
    while (stream_->Read(&response)) {
    }
    return stream_->Finish();
  }
  void Cancel() { context_.TryCancel(); }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<Request, Response>> stream_;
};

class Steps : public Stream<v1::StepsRequest, v1::StepsResponse> {
 public:
  explicit Steps(TestServer& server) : Stream(server, &Normalization::Steps) {}
};
class InferStream : public Stream<v1::InferStreamRequest, v1::InferStreamResponse> {
 public:
  explicit InferStream(TestServer& server) : Stream(server, &Normalization::InferStream) {}
};
class TrainStepStream : public Stream<v1::TrainStepStreamRequest, v1::TrainStepStreamResponse> {
 public:
  explicit TrainStepStream(TestServer& server) : Stream(server, &Normalization::TrainStepStream) {}
};

template <typename T>
v1::Tensor SomeTensor(const std::vector<int64_t>& shape, v1::Layout layout, uint32_t seed = 1) {
  int64_t count = 1;
  for (const int64_t extent : shape) count *= extent;
  const std::vector<double> values = SomeValues(count, seed);
  return MakeTensor(shape, std::vector<T>(values.begin(), values.end()), layout);
}

v1::Tensor WithoutData(v1::Tensor tensor) {
  tensor.clear_data();
  return tensor;
}

// The bytes cut into pieces of sizes that repeat, in elements.
std::vector<std::string> Cut(const std::string& bytes, std::size_t element, const std::vector<std::size_t>& sizes) {
  std::vector<std::string> pieces;
  for (std::size_t begin = 0, i = 0; begin < bytes.size(); ++i) {
    pieces.push_back(bytes.substr(begin, sizes[i % sizes.size()] * element));
    begin += pieces.back().size();
  }
  return pieces;
}

struct Shape {
  const char* name;
  std::vector<int64_t> shape;
  v1::Layout layout;
};

const std::vector<Shape>& Shapes() {
  static const auto* const shapes = new std::vector<Shape>{{"rows", {5, 3, 4, 5}, v1::LAYOUT_CHANNELS_FIRST},
                                                           {"short rows", {6, 3, 7}, v1::LAYOUT_CHANNELS_FIRST},
                                                           {"channels last", {4, 5, 3}, v1::LAYOUT_CHANNELS_LAST},
                                                           {"one row", {1, 3, 200}, v1::LAYOUT_CHANNELS_FIRST},
                                                           {"batch", {70, 3}, v1::LAYOUT_CHANNELS_FIRST}};
  return *shapes;
}

// In elements: one at a time, within a channel, across rows, uneven, all at once.
const std::vector<std::vector<std::size_t>>& Cuts() {
  static const auto* const cuts = new std::vector<std::vector<std::size_t>>{{1}, {3}, {20, 1}, {61, 7, 60}, {1 << 20}};
  return *cuts;
}

template <typename T>
void ExpectInferStreamIsInfer(TestServer& server, const Shape& shape, const std::vector<std::size_t>& cut) {
  v1::InferRequest call;
  call.set_layer("bn");
  *call.mutable_x() = SomeTensor<T>(shape.shape, shape.layout);
  v1::InferResponse whole;
  ASSERT_THAT(Call(server.normalization(), &Normalization::Infer, call, &whole), GrpcIsOk());

  InferStream stream(server);
  v1::InferStreamRequest request;
  *request.mutable_call() = call;
  *request.mutable_call()->mutable_x() = WithoutData(call.x());
  std::string y;
  bool first = true;
  for (const std::string& piece : Cut(call.x().data(), sizeof(T), cut)) {
    request.set_data(piece);
    ASSERT_TRUE(stream.Send(request));
    request.clear_call();
    v1::InferStreamResponse response;
    ASSERT_TRUE(stream.Receive(&response));
    ASSERT_EQ(response.has_result(), first);
    if (first) {
      EXPECT_EQ(response.result().version(), whole.version());
      EXPECT_EQ(response.result().content_hash(), whole.content_hash());
      EXPECT_EQ(response.result().y().ShortDebugString(), WithoutData(whole.y()).ShortDebugString());
    }
    first = false;
    EXPECT_EQ(response.data().size(), piece.size());
    y += response.data();
  }
  EXPECT_THAT(stream.End(), GrpcIsOk());
  EXPECT_EQ(y, whole.y().data()) << shape.name << ", cut " << cut[0];
}

TEST(InferStream, GivesTheBitsOfInferHoweverItIsCut) {
  TestServer server;
  server.Create("bn", 3);
  v1::TrainStepRequest train;
  train.set_layer("bn");
  *train.mutable_x() = SomeTensor<float>({16, 3}, v1::LAYOUT_CHANNELS_FIRST, 7);
  for (const double gamma : {0.5, 2.0, -1.0}) train.add_gamma(gamma);
  for (const double beta : {0.25, 0.0, 3.0}) train.add_beta(beta);
  v1::TrainStepResponse trained;
  ASSERT_THAT(Call(server.normalization(), &Normalization::TrainStep, train, &trained), GrpcIsOk());
  for (const Shape& shape : Shapes()) {
    for (const std::vector<std::size_t>& cut : Cuts()) {
      ExpectInferStreamIsInfer<float>(server, shape, cut);
      ExpectInferStreamIsInfer<double>(server, shape, cut);
    }
  }
}

// One TrainStep as a stream, in both passes cut in the same way.
v1::TrainStepResponse TrainInChunks(TestServer& server, const v1::TrainStepRequest& call,
                                    const std::vector<std::string>& pieces) {
  TrainStepStream stream(server);
  v1::TrainStepStreamRequest request;
  *request.mutable_call() = call;
  *request.mutable_call()->mutable_x() = WithoutData(call.x());
  for (const std::string& piece : pieces) {
    request.set_data(piece);
    EXPECT_TRUE(stream.Send(request));
    request.clear_call();
  }
  v1::TrainStepStreamResponse response;
  EXPECT_TRUE(stream.Receive(&response));
  EXPECT_TRUE(response.has_result());
  EXPECT_EQ(response.data(), "");
  v1::TrainStepResponse result = response.result();
  std::string y;
  if (!call.omit_output()) {
    for (const std::string& piece : pieces) {
      request.set_data(piece);
      EXPECT_TRUE(stream.Send(request));
      EXPECT_TRUE(stream.Receive(&response));
      EXPECT_FALSE(response.has_result());
      y += response.data();
    }
    result.mutable_y()->set_data(y);
  }
  EXPECT_THAT(stream.End(), GrpcIsOk());
  return result;
}

TEST(TrainStepStream, GivesTheBitsOfTrainStepHoweverItIsCut) {
  TestServer server;
  int layers = 0;
  for (const char* preset : {"pytorch", "rl_observation"}) {
    for (const Shape& shape : Shapes()) {
      for (const std::vector<std::size_t>& cut : Cuts()) {
        const std::string suffix = std::to_string(layers++);
        v1::TrainStepRequest call;
        *call.mutable_x() = SomeTensor<float>(shape.shape, shape.layout);
        server.Create("whole" + suffix, 3, preset);
        call.set_layer("whole" + suffix);
        v1::TrainStepResponse whole;
        ASSERT_THAT(Call(server.normalization(), &Normalization::TrainStep, call, &whole), GrpcIsOk());

        server.Create("cut" + suffix, 3, preset);
        call.set_layer("cut" + suffix);
        v1::TrainStepResponse in_chunks = TrainInChunks(server, call, Cut(call.x().data(), sizeof(float), cut));
        EXPECT_EQ(in_chunks.y().data(), whole.y().data()) << preset << ' ' << shape.name << ", cut " << cut[0];
        // The hash covers the layer's statistics.
        EXPECT_EQ(in_chunks.SerializeAsString(), whole.SerializeAsString()) << preset << ' ' << shape.name;
      }
    }
  }
}

TEST(TrainStepStream, OnlyStatisticsAndARetryInOnePiece) {
  TestServer server;
  server.Create("bn", 3);
  v1::TrainStepRequest call;
  call.set_layer("bn");
  call.set_request_id("step-1");
  call.set_omit_output(true);
  *call.mutable_x() = SomeTensor<float>({8, 3, 5}, v1::LAYOUT_CHANNELS_FIRST);
  const v1::TrainStepResponse first = TrainInChunks(server, call, Cut(call.x().data(), 4, {13}));
  EXPECT_FALSE(first.has_y());
  EXPECT_FALSE(first.replayed());
  v1::TrainStepResponse again;
  ASSERT_THAT(Call(server.normalization(), &Normalization::TrainStep, call, &again), GrpcIsOk());
  EXPECT_TRUE(again.replayed());
  EXPECT_EQ(again.version(), first.version());
  EXPECT_EQ(server.Get("bn").state().num_batches_tracked(), 1);
}

TEST(TrainStepStream, AStreamThatEndsEarlyChangesNothing) {
  TestServer server;
  server.Create("bn", 3);
  v1::TrainStepStreamRequest request;
  request.mutable_call()->set_layer("bn");
  const v1::Tensor x = SomeTensor<float>({8, 3, 5}, v1::LAYOUT_CHANNELS_FIRST);
  *request.mutable_call()->mutable_x() = WithoutData(x);
  request.set_data(x.data().substr(0, x.data().size() - 8));
  {
    TrainStepStream stream(server);
    ASSERT_TRUE(stream.Send(request));
    stream.SendNoMore();
    EXPECT_THAT(stream.End(), GrpcStatusIs(grpc::INVALID_ARGUMENT, HasSubstr("ended 8 bytes before the end of x")));
  }
  {
    TrainStepStream stream(server);
    ASSERT_TRUE(stream.Send(request));
    stream.Cancel();
    EXPECT_THAT(stream.End(), GrpcStatusIs(grpc::CANCELLED, ::testing::_));
  }
  EXPECT_EQ(server.Get("bn").version(), 1);
}

TEST(ChunkStreams, BadMessagesAreNamed) {
  TestServer server;
  server.Create("bn", 3);
  v1::InferStreamRequest good;
  good.mutable_call()->set_layer("bn");
  const v1::Tensor x = SomeTensor<float>({4, 3}, v1::LAYOUT_CHANNELS_FIRST);
  *good.mutable_call()->mutable_x() = WithoutData(x);
  struct Case {
    const char* what;
    std::function<void(v1::InferStreamRequest*)> change;
    grpc::StatusCode code;
    const char* message;
  };
  const std::vector<Case> cases = {
      {"no call", [](auto* r) { r->clear_call(); }, grpc::INVALID_ARGUMENT, "the first message holds no call"},
      {"data in the call", [](auto* r) { r->mutable_call()->mutable_x()->set_data("1234"); }, grpc::INVALID_ARGUMENT,
       "want them in the chunks"},
      {"no x", [](auto* r) { r->mutable_call()->clear_x(); }, grpc::INVALID_ARGUMENT, "x is missing"},
      {"part of an element", [](auto* r) { r->set_data("12345"); }, grpc::INVALID_ARGUMENT,
       "whole elements of 4 bytes"},
      {"too much", [](auto* r) { r->set_data(std::string(52, 'x')); }, grpc::INVALID_ARGUMENT, "only 48 bytes of x"},
      {"no such layer", [](auto* r) { r->mutable_call()->set_layer("other"); }, grpc::NOT_FOUND, "other"},
      {"other channels", [](auto* r) { r->mutable_call()->mutable_x()->set_shape(1, 4); }, grpc::INVALID_ARGUMENT,
       "x has 4 channels, want 3"},
      {"other version", [](auto* r) { r->mutable_call()->set_version(9); }, grpc::FAILED_PRECONDITION, "9"},
  };
  for (const Case& c : cases) {
    v1::InferStreamRequest request = good;
    c.change(&request);
    InferStream stream(server);
    stream.Send(request);
    stream.SendNoMore();
    EXPECT_THAT(stream.End(), GrpcStatusIs(c.code, HasSubstr(c.message))) << c.what;
  }
  InferStream twice(server);
  ASSERT_TRUE(twice.Send(good));
  twice.Send(good);
  EXPECT_THAT(twice.End(), GrpcStatusIs(grpc::INVALID_ARGUMENT, HasSubstr("a call stands in a later message")));
  InferStream nothing(server);
  nothing.SendNoMore();
  EXPECT_THAT(nothing.End(), GrpcStatusIs(grpc::INVALID_ARGUMENT, HasSubstr("before a call")));
}

TEST(ChunkStreams, ATensorLargerThanTheBudgetGoesThrough) {
  app::ServerOptions options = TestOptions();
  options.memory_budget_bytes = 8 << 20;
  TestServer server(options);
  server.Create("bn", 256);
  // 64 MiB in chunks of 1 MiB, the next sent before the last is answered.
  constexpr int kChunks = 64;
  v1::InferStreamRequest request;
  request.mutable_call()->set_layer("bn");
  v1::Tensor* x = request.mutable_call()->mutable_x();
  x->set_dtype(v1::DATA_TYPE_FLOAT32);
  x->add_shape(kChunks * 1024);
  x->add_shape(256);
  request.set_data(SomeTensor<float>({1024, 256}, v1::LAYOUT_CHANNELS_FIRST).data());

  InferStream stream(server);
  std::thread sender([&stream, request]() mutable {
    for (int i = 0; i < kChunks; ++i) {
      stream.Send(request);
      request.clear_call();
    }
  });
  int64_t received = 0;
  std::string first;
  bool alike = true;
  v1::InferStreamResponse response;
  for (int i = 0; i < kChunks && stream.Receive(&response); ++i) {
    received += static_cast<int64_t>(response.data().size());
    if (i == 0) first = response.data();
    alike = alike && response.data() == first;
  }
  sender.join();
  EXPECT_THAT(stream.End(), GrpcIsOk());
  EXPECT_EQ(received, int64_t{kChunks} << 20);
  EXPECT_TRUE(alike) << "the same input in every chunk";
  EXPECT_LE(server.server().buffers().peak_bytes(), options.memory_budget_bytes);
}

TEST(ChunkStreams, ARowThatNoBudgetHoldsIsRefused) {
  app::ServerOptions options = TestOptions();
  options.memory_budget_bytes = 1 << 20;
  TestServer server(options);
  server.Create("bn", 2);
  v1::TrainStepStreamRequest request;
  request.mutable_call()->set_layer("bn");
  v1::Tensor* x = request.mutable_call()->mutable_x();
  x->set_dtype(v1::DATA_TYPE_FLOAT32);
  for (const int64_t extent : {2, 2, 1 << 20}) x->add_shape(extent);
  request.set_data(std::string(4096, '\0'));
  TrainStepStream stream(server);
  stream.Send(request);
  EXPECT_THAT(stream.End(), GrpcStatusIs(grpc::RESOURCE_EXHAUSTED, HasSubstr("8388608 bytes")));
}

TEST(Steps, EachCallIsAnsweredAsItsUnaryFormInOrder) {
  TestServer server;
  server.Create("unary", 3, "pytorch");
  server.Create("stream", 3, "pytorch");
  const v1::Tensor x = SomeTensor<float>({16, 3}, v1::LAYOUT_CHANNELS_FIRST);

  v1::TrainStepRequest train;
  train.set_layer("unary");
  *train.mutable_x() = x;
  v1::TrainStepResponse trained;
  ASSERT_THAT(Call(server.normalization(), &Normalization::TrainStep, train, &trained), GrpcIsOk());
  v1::InferRequest infer;
  infer.set_layer("unary");
  *infer.mutable_x() = x;
  v1::InferResponse inferred;
  ASSERT_THAT(Call(server.normalization(), &Normalization::Infer, infer, &inferred), GrpcIsOk());
  v1::DenormalizeRequest back;
  back.set_layer("unary");
  *back.mutable_y() = inferred.y();
  v1::DenormalizeResponse denormalized;
  ASSERT_THAT(Call(server.normalization(), &Normalization::Denormalize, back, &denormalized), GrpcIsOk());
  v1::BackwardRequest backward;
  backward.set_layer("unary");
  *backward.mutable_x() = x;
  *backward.mutable_dy() = inferred.y();
  *backward.mutable_batch_mean() = trained.batch_mean();
  *backward.mutable_batch_var() = trained.batch_var();
  v1::BackwardResponse gradients;
  ASSERT_THAT(Call(server.normalization(), &Normalization::Backward, backward, &gradients), GrpcIsOk());

  // All are sent before any is read.
  Steps stream(server);
  v1::StepsRequest request;
  request.set_id(11);
  *request.mutable_train_step() = train;
  request.mutable_train_step()->set_layer("stream");
  ASSERT_TRUE(stream.Send(request));
  request.set_id(12);
  *request.mutable_infer() = infer;
  request.mutable_infer()->set_layer("stream");
  ASSERT_TRUE(stream.Send(request));
  request.set_id(13);
  *request.mutable_denormalize() = back;
  request.mutable_denormalize()->set_layer("stream");
  ASSERT_TRUE(stream.Send(request));
  request.set_id(14);
  *request.mutable_backward() = backward;
  request.mutable_backward()->set_layer("stream");
  ASSERT_TRUE(stream.Send(request));
  stream.SendNoMore();

  v1::StepsResponse response;
  ASSERT_TRUE(stream.Receive(&response));
  EXPECT_EQ(response.id(), 11);
  EXPECT_EQ(response.train_step().SerializeAsString(), trained.SerializeAsString());
  ASSERT_TRUE(stream.Receive(&response));
  EXPECT_EQ(response.id(), 12);
  EXPECT_EQ(response.infer().SerializeAsString(), inferred.SerializeAsString());
  ASSERT_TRUE(stream.Receive(&response));
  EXPECT_EQ(response.id(), 13);
  EXPECT_EQ(response.denormalize().SerializeAsString(), denormalized.SerializeAsString());
  ASSERT_TRUE(stream.Receive(&response));
  EXPECT_EQ(response.id(), 14);
  EXPECT_EQ(response.backward().SerializeAsString(), gradients.SerializeAsString());
  EXPECT_FALSE(stream.Receive(&response));
  EXPECT_THAT(stream.End(), GrpcIsOk());
}

TEST(Steps, AFailureEndsItsCallAndNotTheStream) {
  TestServer server;
  server.Create("bn", 3);
  Steps stream(server);
  v1::StepsRequest request;
  request.set_id(1);
  request.mutable_infer()->set_layer("other");
  *request.mutable_infer()->mutable_x() = SomeTensor<float>({2, 3}, v1::LAYOUT_CHANNELS_FIRST);
  ASSERT_TRUE(stream.Send(request));
  v1::StepsRequest empty;
  empty.set_id(2);
  ASSERT_TRUE(stream.Send(empty));
  request.set_id(3);
  request.mutable_infer()->set_layer("bn");
  ASSERT_TRUE(stream.Send(request));

  v1::StepsResponse response;
  ASSERT_TRUE(stream.Receive(&response));
  EXPECT_EQ(response.id(), 1);
  EXPECT_EQ(response.status().code(), grpc::NOT_FOUND);
  EXPECT_THAT(response.status().message(), HasSubstr("'other'"));
  EXPECT_EQ(response.result_case(), v1::StepsResponse::RESULT_NOT_SET);
  ASSERT_TRUE(stream.Receive(&response));
  EXPECT_EQ(response.id(), 2);
  EXPECT_EQ(response.status().code(), grpc::INVALID_ARGUMENT);
  ASSERT_TRUE(stream.Receive(&response));
  EXPECT_EQ(response.id(), 3);
  EXPECT_FALSE(response.has_status());
  EXPECT_TRUE(response.has_infer());
  stream.SendNoMore();
  EXPECT_THAT(stream.End(), GrpcIsOk());
}

TEST(Steps, AnIdleStreamDoesNotHoldUpTheServersEnd) {
  auto server = std::make_unique<TestServer>();
  server->Create("bn", 3);
  Steps stream(*server);
  v1::StepsRequest request;
  request.mutable_infer()->set_layer("bn");
  *request.mutable_infer()->mutable_x() = SomeTensor<float>({2, 3}, v1::LAYOUT_CHANNELS_FIRST);
  ASSERT_TRUE(stream.Send(request));
  v1::StepsResponse response;
  ASSERT_TRUE(stream.Receive(&response));
  std::future<grpc::Status> end = std::async(std::launch::async, [&] { return stream.End(); });
  const auto start = std::chrono::steady_clock::now();
  server->server().Shutdown(absl::Minutes(5));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::minutes(1));
  EXPECT_THAT(end.get(), GrpcStatusIs(grpc::UNAVAILABLE, HasSubstr("stopping")));
}

}  // namespace
}  // namespace normd::tests
