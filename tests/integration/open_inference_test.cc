// The Open Inference Protocol: what its clients send, as bytes written by hand from the standard's field numbers and
// through generated stubs, and what they get. The numbers are those of NormalizationService on the same layer.

#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>

#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "inference/open_inference_service.grpc.pb.h"
#include "tests/integration/test_server.h"
#include "tests/proto/wire/encoding.h"
#include "tests/server/shm/shm_object.h"

namespace normd::tests {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

using InferenceStub = ::inference::GRPCInferenceService::Stub;

template <typename T>
std::string Bytes(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

template <typename T>
std::vector<T> FromBytes(const std::string& bytes) {
  std::vector<T> values(bytes.size() / sizeof(T));
  std::memcpy(values.data(), bytes.data(), values.size() * sizeof(T));
  return values;
}

class OpenInferenceTest : public ::testing::Test {
 protected:
  OpenInferenceTest() : server_(Options()) {
    stub_ = ::inference::GRPCInferenceService::NewStub(server_.channel());
    server_.Create("bn", 2, "pytorch");
  }

  static app::ServerOptions Options() {
    app::ServerOptions options = TestOptions();
    options.shared_memory = true;
    options.open_inference_shared_memory = true;
    return options;
  }

  // x of shape [2, 2], raw.
  static ::inference::ModelInferRequest Request(const std::string& model = "bn") {
    ::inference::ModelInferRequest request;
    request.set_model_name(model);
    ::inference::ModelInferRequest::InferInputTensor* const x = request.add_inputs();
    x->set_name("x");
    x->set_datatype("FP32");
    x->add_shape(2);
    x->add_shape(2);
    request.add_raw_input_contents(Bytes(std::vector<float>{1, 2, 3, 4}));
    return request;
  }
  static ::inference::ModelInferRequest StepRequest() {
    ::inference::ModelInferRequest request = Request();
    (*request.mutable_parameters())["training"].set_bool_param(true);
    return request;
  }

  grpc::Status Infer(const ::inference::ModelInferRequest& request, ::inference::ModelInferResponse* response) {
    return Call(*stub_, &InferenceStub::ModelInfer, request, response);
  }

  // y by our own method.
  std::vector<float> OwnInfer(const std::vector<float>& x, const std::vector<int64_t>& shape,
                              v1::Layout layout = v1::LAYOUT_UNSPECIFIED) {
    v1::InferRequest request;
    request.set_layer("bn");
    *request.mutable_x() = MakeTensor(shape, x, layout);
    v1::InferResponse response;
    EXPECT_THAT(Call(server_.normalization(), &v1::NormalizationService::Stub::Infer, request, &response), GrpcIsOk());
    return Values<float>(response.y());
  }

  // Sends bytes and returns those that come back.
  std::string RawCall(const std::string& method, const std::string& request) {
    grpc::GenericStub generic(server_.channel());
    grpc::ClientContext context;
    const grpc::Slice slice(request);
    const grpc::ByteBuffer message(&slice, 1);
    grpc::ByteBuffer answer;
    std::mutex mutex;
    std::condition_variable done;
    std::optional<grpc::Status> status;
    generic.UnaryCall(&context, "/inference.GRPCInferenceService/" + method, {}, &message, &answer,
                      [&](const grpc::Status& result) {
                        const std::lock_guard<std::mutex> lock(mutex);
                        status = result;
                        done.notify_one();
                      });
    std::unique_lock<std::mutex> lock(mutex);
    done.wait(lock, [&] { return status.has_value(); });
    EXPECT_THAT(*status, GrpcIsOk());
    grpc::Slice whole;
    EXPECT_TRUE(answer.DumpToSingleSlice(&whole).ok());
    return {reinterpret_cast<const char*>(whole.begin()), whole.size()};
  }

  TestServer server_;
  std::unique_ptr<InferenceStub> stub_;
};

// The standard's numbers, written out: what any client of the protocol puts on the wire, and reads.
TEST_F(OpenInferenceTest, GoldenBytesOfModelInfer) {
  const std::string x = Bytes(std::vector<float>{1, 2, 3, 4});
  const std::string input = BytesField(1, "x") + BytesField(2, "FP32") + BytesField(3, std::string("\2\2", 2));
  const std::string request = BytesField(1, "bn") + BytesField(3, "my id") + BytesField(5, input) + BytesField(7, x);
  // A fresh layer of the preset pytorch: mean 0, variance 1, eps 1e-5.
  const std::vector<float> y = OwnInfer({1, 2, 3, 4}, {2, 2});
  EXPECT_NEAR(y[1], 2 / std::sqrt(1 + 1e-5), 1e-6);
  const std::string hash = server_.Get("bn").content_hash();
  const std::string parameter = BytesField(1, "content_hash") + BytesField(2, BytesField(3, hash));
  const std::string output = BytesField(1, "y") + BytesField(2, "FP32") + BytesField(3, std::string("\2\2", 2));
  EXPECT_EQ(RawCall("ModelInfer", request), BytesField(1, "bn") + BytesField(2, "1") + BytesField(3, "my id") +
                                                BytesField(4, parameter) + BytesField(5, output) +
                                                BytesField(6, Bytes(y)));
}

TEST_F(OpenInferenceTest, GoldenBytesOfTheQueries) {
  EXPECT_EQ(RawCall("ServerLive", ""), VarintField(1, 1));
  EXPECT_EQ(RawCall("ServerReady", ""), VarintField(1, 1));
  EXPECT_EQ(RawCall("ModelReady", BytesField(1, "bn")), VarintField(1, 1));
  EXPECT_EQ(RawCall("ModelReady", BytesField(1, "bn") + BytesField(2, "1")), VarintField(1, 1));
  EXPECT_EQ(RawCall("ModelReady", BytesField(1, "bn") + BytesField(2, "7")), "");
  EXPECT_EQ(RawCall("ModelReady", BytesField(1, "none")), "");
  // [-1, 2] as a packed list of int64.
  const std::string dims = std::string(9, '\xFF') + "\1\2";
  EXPECT_EQ(RawCall("ModelConfig", BytesField(1, "bn")),
            BytesField(1, BytesField(1, "bn") + BytesField(2, "normd_batch_norm") +
                              BytesField(5, BytesField(1, "x") + VarintField(2, 11) + BytesField(4, dims)) +
                              BytesField(6, BytesField(1, "y") + VarintField(2, 11) + BytesField(3, dims)) +
                              BytesField(17, "normd")));
  EXPECT_THAT(RawCall("ModelMetadata", BytesField(1, "bn")),
              HasSubstr(BytesField(1, "bn") + BytesField(2, "1") + BytesField(3, "normd_batch_norm") +
                        BytesField(4, BytesField(1, "x") + BytesField(2, "FP32") + BytesField(3, dims)) +
                        BytesField(5, BytesField(1, "y") + BytesField(2, "FP32") + BytesField(3, dims))));
  EXPECT_EQ(RawCall("RepositoryIndex", ""),
            BytesField(1, BytesField(1, "bn") + BytesField(2, "1") + BytesField(3, "READY")));
}

TEST_F(OpenInferenceTest, TypedAndRawElementsGiveTheSame) {
  ::inference::ModelInferResponse raw;
  ASSERT_THAT(Infer(Request(), &raw), GrpcIsOk());
  ::inference::ModelInferRequest request = Request();
  request.clear_raw_input_contents();
  for (const float value : {1.0F, 2.0F, 3.0F, 4.0F})
    request.mutable_inputs(0)->mutable_contents()->add_fp32_contents(value);
  ::inference::ModelInferResponse typed;
  ASSERT_THAT(Infer(request, &typed), GrpcIsOk());
  EXPECT_EQ(typed.SerializeAsString(), raw.SerializeAsString());

  request.mutable_inputs(0)->set_datatype("FP64");
  request.mutable_inputs(0)->clear_contents();
  for (const double value : {1.0, 2.0, 3.0, 4.0})
    request.mutable_inputs(0)->mutable_contents()->add_fp64_contents(value);
  ASSERT_THAT(Infer(request, &typed), GrpcIsOk());
  EXPECT_EQ(typed.outputs(0).datatype(), "FP64");
  EXPECT_EQ(FromBytes<double>(typed.raw_output_contents(0)).size(), 4);
}

TEST_F(OpenInferenceTest, SixteenBitTypesTravelRaw) {
  for (const std::string datatype : {"FP16", "BF16"}) {
    ::inference::ModelInferRequest request = Request();
    request.mutable_inputs(0)->set_datatype(datatype);
    request.set_raw_input_contents(0, std::string(8, '\0'));
    ::inference::ModelInferResponse response;
    ASSERT_THAT(Infer(request, &response), GrpcIsOk()) << datatype;
    EXPECT_EQ(response.outputs(0).datatype(), datatype);
    EXPECT_EQ(response.raw_output_contents(0), std::string(8, '\0'));
  }
}

TEST_F(OpenInferenceTest, LargeTensorsInChannelsLast) {
  std::vector<float> x;
  for (const double value : SomeValues(int64_t{2} * 300 * 500)) x.push_back(static_cast<float>(value));
  ::inference::ModelInferRequest request = Request();
  request.mutable_inputs(0)->clear_shape();
  for (const int64_t extent : {300, 500, 2}) request.mutable_inputs(0)->add_shape(extent);
  (*request.mutable_parameters())["layout"].set_string_param("channels_last");
  request.set_raw_input_contents(0, Bytes(x));
  ::inference::ModelInferResponse response;
  ASSERT_THAT(Infer(request, &response), GrpcIsOk());
  EXPECT_THAT(response.outputs(0).shape(), ElementsAre(300, 500, 2));
  EXPECT_EQ(response.raw_output_contents(0), Bytes(OwnInfer(x, {300, 500, 2}, v1::LAYOUT_CHANNELS_LAST)));
}

TEST_F(OpenInferenceTest, ATrainingStepCountsOnceForItsRequestId) {
  ::inference::ModelInferRequest request = StepRequest();
  (*request.mutable_parameters())["request_id"].set_string_param("step 1");
  request.add_outputs()->set_name("batch_var");
  request.add_outputs()->set_name("y");
  request.add_outputs()->set_name("batch_mean");
  ::inference::ModelInferResponse first;
  ASSERT_THAT(Infer(request, &first), GrpcIsOk());
  EXPECT_EQ(first.model_version(), "2");
  EXPECT_EQ(first.parameters().at("num_batches_tracked").int64_param(), 1);
  ASSERT_EQ(first.raw_output_contents_size(), 3);
  EXPECT_THAT(FromBytes<double>(first.raw_output_contents(0)), ElementsAre(1, 1));
  EXPECT_NEAR(FromBytes<float>(first.raw_output_contents(1))[0], -1 / std::sqrt(1 + 1e-5), 1e-6);
  EXPECT_THAT(FromBytes<double>(first.raw_output_contents(2)), ElementsAre(2, 3));
  EXPECT_THAT(first.outputs(2).shape(), ElementsAre(2));
  EXPECT_EQ(first.outputs(2).datatype(), "FP64");
  // momentum 0.1 of PyTorch.
  EXPECT_THAT(server_.Get("bn").state().running_mean(), ElementsAre(0.1 * 2, 0.1 * 3));

  ::inference::ModelInferResponse again;
  ASSERT_THAT(Infer(request, &again), GrpcIsOk());
  EXPECT_TRUE(again.parameters().at("replayed").bool_param());
  EXPECT_EQ(again.raw_output_contents(1), first.raw_output_contents(1));
  EXPECT_EQ(server_.Get("bn").version(), 2);

  // Statistics only.
  request.clear_outputs();
  request.add_outputs()->set_name("batch_mean");
  (*request.mutable_parameters())["request_id"].set_string_param("step 2");
  ASSERT_THAT(Infer(request, &first), GrpcIsOk());
  EXPECT_EQ(first.raw_output_contents_size(), 1);
  EXPECT_EQ(server_.Get("bn").version(), 3);
}

TEST_F(OpenInferenceTest, VersionsAreThoseThatAreKept) {
  ::inference::ModelInferResponse response;
  ASSERT_THAT(Infer(Request(), &response), GrpcIsOk());
  const std::string before = response.raw_output_contents(0);
  ASSERT_THAT(Infer(StepRequest(), &response), GrpcIsOk());
  ::inference::ModelMetadataRequest query;
  query.set_name("bn");
  ::inference::ModelMetadataResponse metadata;
  ASSERT_THAT(Call(*stub_, &InferenceStub::ModelMetadata, query, &metadata), GrpcIsOk());
  EXPECT_THAT(metadata.versions(), ElementsAre("1", "2"));
  EXPECT_EQ(metadata.properties().at("num_batches_tracked"), "1");
  EXPECT_EQ(metadata.properties().at("content_hash"), server_.Get("bn").content_hash());

  ::inference::ModelInferRequest request = Request();
  request.set_model_version("1");
  ASSERT_THAT(Infer(request, &response), GrpcIsOk());
  EXPECT_EQ(response.raw_output_contents(0), before);
  EXPECT_EQ(response.model_version(), "1");
  request.set_model_version("2");
  ASSERT_THAT(Infer(request, &response), GrpcIsOk());
  EXPECT_NE(response.raw_output_contents(0), before);
}

struct BadRequest {
  std::string name;
  std::function<void(::inference::ModelInferRequest&)> spoil;
  grpc::StatusCode code;
  std::vector<std::string> parts;
};

TEST_F(OpenInferenceTest, RefusesWhatIsWrong) {
  using R = ::inference::ModelInferRequest;
  constexpr auto kInvalid = grpc::StatusCode::INVALID_ARGUMENT;
  const std::vector<BadRequest> cases = {
      {"unknown model", [](R& r) { r.set_model_name("nobody"); }, grpc::StatusCode::NOT_FOUND, {"'nobody'"}},
      {"no model", [](R& r) { r.clear_model_name(); }, kInvalid, {"name"}},
      {"version in words", [](R& r) { r.set_model_version("newest"); }, kInvalid, {"'newest'", "number"}},
      {"version below 1", [](R& r) { r.set_model_version("-1"); }, kInvalid, {"'-1'"}},
      {"version with a plus", [](R& r) { r.set_model_version("+1"); }, kInvalid, {"'+1'"}},
      {"version not kept", [](R& r) { r.set_model_version("9"); }, grpc::StatusCode::NOT_FOUND, {"version", "9"}},
      {"no input", [](R& r) { r.clear_inputs(); }, kInvalid, {"none", "want x"}},
      {"two inputs", [](R& r) { *r.add_inputs() = r.inputs(0); }, kInvalid, {"'x', 'x'"}},
      {"another input", [](R& r) { r.mutable_inputs(0)->set_name("X"); }, kInvalid, {"'X'", "want x"}},
      {"text", [](R& r) { r.mutable_inputs(0)->set_datatype("BYTES"); }, kInvalid, {"'BYTES'", "FP32"}},
      {"wrong channels", [](R& r) { r.mutable_inputs(0)->set_shape(1, 1); }, kInvalid, {"1 channels, want 2"}},
      {"rank 1", [](R& r) { r.mutable_inputs(0)->mutable_shape()->RemoveLast(); }, kInvalid, {"rank"}},
      {"overflow",
       [](R& r) { r.mutable_inputs(0)->set_shape(0, int64_t{1} << 62); },
       kInvalid,
       {"4611686018427387904"}},
      {"too few bytes", [](R& r) { r.set_raw_input_contents(0, "12345678"); }, kInvalid, {"8 bytes", "16"}},
      {"no elements", [](R& r) { r.clear_raw_input_contents(); }, kInvalid, {"0 places"}},
      {"one raw entry too many",
       [](R& r) { r.add_raw_input_contents("more"); },
       kInvalid,
       {"2 places", "2 in raw_input_contents"}},
      {"raw and typed",
       [](R& r) { r.mutable_inputs(0)->mutable_contents()->add_fp32_contents(1); },
       kInvalid,
       {"2 places", "contents"}},
      {"typed of another type",
       [](R& r) {
         r.clear_raw_input_contents();
         r.mutable_inputs(0)->mutable_contents()->add_fp64_contents(1);
       },
       kInvalid,
       {"0 bytes in fp32_contents", "want 16", "[2,2]"}},
      {"typed 16 bits",
       [](R& r) {
         r.clear_raw_input_contents();
         r.mutable_inputs(0)->set_datatype("BF16");
         r.mutable_inputs(0)->mutable_contents()->add_uint_contents(1);
       },
       kInvalid,
       {"BF16", "raw_input_contents"}},
      {"unknown output", [](R& r) { r.add_outputs()->set_name("z"); }, kInvalid, {"'z'", "want y"}},
      {"statistics without training",
       [](R& r) { r.add_outputs()->set_name("batch_mean"); },
       kInvalid,
       {"'batch_mean'", "want y"}},
      {"output twice",
       [](R& r) {
         r.add_outputs()->set_name("y");
         r.add_outputs()->set_name("y");
       },
       kInvalid,
       {"'y'", "twice"}},
      {"unknown parameter",
       [](R& r) { (*r.mutable_parameters())["momentum"].set_double_param(0.1); },
       kInvalid,
       {"'momentum'", "training"}},
      {"training in words",
       [](R& r) { (*r.mutable_parameters())["training"].set_string_param("yes"); },
       kInvalid,
       {"training", "bool_param"}},
      {"layout", [](R& r) { (*r.mutable_parameters())["layout"].set_string_param("NCHW"); }, kInvalid, {"'NCHW'"}},
      {"request_id without training",
       [](R& r) { (*r.mutable_parameters())["request_id"].set_string_param("a"); },
       kInvalid,
       {"training"}},
      {"training of a version",
       [](R& r) {
         (*r.mutable_parameters())["training"].set_bool_param(true);
         r.set_model_version("1");
       },
       kInvalid,
       {"newest"}},
      {"unknown region",
       [](R& r) {
         r.clear_raw_input_contents();
         auto& parameters = *r.mutable_inputs(0)->mutable_parameters();
         parameters["shared_memory_region"].set_string_param("nowhere");
         parameters["shared_memory_byte_size"].set_int64_param(16);
       },
       grpc::StatusCode::NOT_FOUND,
       {"'nowhere'"}},
      {"region without a size",
       [](R& r) { (*r.mutable_inputs(0)->mutable_parameters())["shared_memory_region"].set_string_param("r"); },
       kInvalid,
       {"shared_memory_byte_size"}},
      {"unknown parameter of the input",
       [](R& r) { (*r.mutable_inputs(0)->mutable_parameters())["shm"].set_string_param("r"); },
       kInvalid,
       {"'shm'"}},
  };
  const int64_t version = server_.Get("bn").version();
  for (const BadRequest& bad : cases) {
    ::inference::ModelInferRequest request = Request();
    bad.spoil(request);
    ::inference::ModelInferResponse response;
    const grpc::Status status = Infer(request, &response);
    EXPECT_EQ(status.error_code(), bad.code) << bad.name << ": " << status.error_message();
    for (const std::string& part : bad.parts) EXPECT_THAT(status.error_message(), HasSubstr(part)) << bad.name;
  }
  EXPECT_EQ(server_.Get("bn").version(), version);
}

TEST_F(OpenInferenceTest, ParametersOfOtherServersDoNoHarm) {
  ::inference::ModelInferRequest request = Request();
  (*request.mutable_parameters())["priority"].set_uint64_param(1);
  (*request.mutable_parameters())["timeout"].set_int64_param(1000);
  ::inference::ModelInferResponse response;
  EXPECT_THAT(Infer(request, &response), GrpcIsOk());
}

TEST_F(OpenInferenceTest, AStreamGoesOnAfterAFailure) {
  const std::string y = Bytes(OwnInfer({1, 2, 3, 4}, {2, 2}));
  grpc::ClientContext context;
  const auto stream = stub_->ModelStreamInfer(&context);
  ::inference::ModelInferRequest request = Request();
  request.set_id("one");
  ASSERT_TRUE(stream->Write(request));
  request.set_id("two");
  request.set_model_name("nobody");
  ASSERT_TRUE(stream->Write(request));
  request = StepRequest();
  request.set_id("three");
  ASSERT_TRUE(stream->Write(request));
  stream->WritesDone();

  ::inference::ModelStreamInferResponse response;
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_THAT(response.error_message(), IsEmpty());
  EXPECT_EQ(response.infer_response().id(), "one");
  EXPECT_EQ(response.infer_response().raw_output_contents(0), y);
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_THAT(response.error_message(), AllOf(HasSubstr("NOT_FOUND: "), HasSubstr("'nobody'")));
  EXPECT_EQ(response.infer_response().id(), "two");
  EXPECT_EQ(response.infer_response().raw_output_contents_size(), 0);
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.infer_response().id(), "three");
  EXPECT_EQ(response.infer_response().model_version(), "2");
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_THAT(stream->Finish(), GrpcIsOk());
}

TEST_F(OpenInferenceTest, StatisticsCountWhatWasAsked) {
  ::inference::ModelInferResponse response;
  for (int i = 0; i < 3; ++i) ASSERT_THAT(Infer(Request(), &response), GrpcIsOk());
  ::inference::ModelInferRequest bad = Request();
  bad.mutable_inputs(0)->set_shape(1, 1);
  EXPECT_FALSE(Infer(bad, &response).ok());
  EXPECT_FALSE(Infer(Request("nobody"), &response).ok());

  for (const std::string name : {"", "bn"}) {
    ::inference::ModelStatisticsRequest query;
    query.set_name(name);
    ::inference::ModelStatisticsResponse statistics;
    ASSERT_THAT(Call(*stub_, &InferenceStub::ModelStatistics, query, &statistics), GrpcIsOk());
    ASSERT_EQ(statistics.model_stats_size(), 1);
    const ::inference::ModelStatistics& model = statistics.model_stats(0);
    EXPECT_EQ(model.name(), "bn");
    EXPECT_EQ(model.execution_count(), 3);
    EXPECT_EQ(model.inference_stats().success().count(), 3);
    EXPECT_GT(model.inference_stats().success().ns(), 0);
    EXPECT_EQ(model.inference_stats().fail().count(), 1);
    EXPECT_GT(model.last_inference(), 1'700'000'000'000);
  }
  ::inference::ModelStatisticsRequest query;
  query.set_name("nobody");
  ::inference::ModelStatisticsResponse statistics;
  EXPECT_THAT(Call(*stub_, &InferenceStub::ModelStatistics, query, &statistics),
              GrpcStatusIs(grpc::StatusCode::NOT_FOUND, HasSubstr("'nobody'")));
}

TEST_F(OpenInferenceTest, TensorsInSharedMemory) {
  // Without any key: the protocol has none.
  ShmObject object(64 << 10);
  object.Write(8192 + 64, Bytes(std::vector<float>{1, 2, 3, 4}));
  ::inference::SystemSharedMemoryRegisterRequest region;
  region.set_name("tensors");
  region.set_key(object.name());
  region.set_offset(8192);
  region.set_byte_size(4096);
  ::inference::SystemSharedMemoryRegisterResponse registered;
  ASSERT_THAT(Call(*stub_, &InferenceStub::SystemSharedMemoryRegister, region, &registered), GrpcIsOk());
  EXPECT_THAT(Call(*stub_, &InferenceStub::SystemSharedMemoryRegister, region, &registered),
              GrpcStatusIs(grpc::StatusCode::ALREADY_EXISTS, HasSubstr("'tensors'")));

  ::inference::ModelInferRequest request = Request();
  request.clear_raw_input_contents();
  const auto place = [](int64_t offset, auto* parameters) {
    (*parameters)["shared_memory_region"].set_string_param("tensors");
    (*parameters)["shared_memory_offset"].set_int64_param(offset);
    (*parameters)["shared_memory_byte_size"].set_int64_param(16);
  };
  place(64, request.mutable_inputs(0)->mutable_parameters());
  ::inference::ModelInferResponse response;
  ASSERT_THAT(Infer(request, &response), GrpcIsOk());
  const std::string y = Bytes(OwnInfer({1, 2, 3, 4}, {2, 2}));
  EXPECT_EQ(response.raw_output_contents(0), y);

  request.add_outputs()->set_name("y");
  place(1024, request.mutable_outputs(0)->mutable_parameters());
  ASSERT_THAT(Infer(request, &response), GrpcIsOk());
  EXPECT_THAT(response.raw_output_contents(), ElementsAre(""));
  EXPECT_EQ(response.outputs(0).parameters().at("shared_memory_offset").int64_param(), 1024);
  EXPECT_EQ(object.Read(8192 + 1024, 16), y);

  place(4096 - 8, request.mutable_inputs(0)->mutable_parameters());
  EXPECT_THAT(Infer(request, &response),
              GrpcStatusIs(grpc::StatusCode::INVALID_ARGUMENT, HasSubstr("16 bytes at offset 4088 leave")));
  (*request.mutable_inputs(0)->mutable_parameters())["shared_memory_byte_size"].set_int64_param(8);
  EXPECT_THAT(Infer(request, &response), GrpcStatusIs(grpc::StatusCode::INVALID_ARGUMENT, HasSubstr("of 8, want 16")));

  ::inference::SystemSharedMemoryStatusResponse regions;
  ASSERT_THAT(
      Call(*stub_, &InferenceStub::SystemSharedMemoryStatus, ::inference::SystemSharedMemoryStatusRequest(), &regions),
      GrpcIsOk());
  EXPECT_EQ(regions.regions().at("tensors").key(), object.name());
  EXPECT_EQ(regions.regions().at("tensors").offset(), 8192);
  ::inference::SystemSharedMemoryUnregisterResponse unregistered;
  ASSERT_THAT(Call(*stub_, &InferenceStub::SystemSharedMemoryUnregister,
                   ::inference::SystemSharedMemoryUnregisterRequest(), &unregistered),
              GrpcIsOk());
  EXPECT_EQ(server_.server().shared_memory_bytes(), 0);
  place(64, request.mutable_inputs(0)->mutable_parameters());
  EXPECT_THAT(Infer(request, &response), GrpcStatusIs(grpc::StatusCode::NOT_FOUND, HasSubstr("'tensors'")));
}

TEST_F(OpenInferenceTest, RefusesOtherPeoplesMemory) {
  ShmObject object(64 << 10);
  ASSERT_EQ(fchmod(object.fd(), 0666), 0);
  ::inference::SystemSharedMemoryRegisterRequest region;
  region.set_name("tensors");
  region.set_key(object.name());
  region.set_byte_size(4096);
  ::inference::SystemSharedMemoryRegisterResponse registered;
  EXPECT_THAT(Call(*stub_, &InferenceStub::SystemSharedMemoryRegister, region, &registered),
              GrpcStatusIs(grpc::StatusCode::PERMISSION_DENIED, HasSubstr("everybody may write")));
  ASSERT_EQ(fchmod(object.fd(), 0600), 0);
  region.set_offset(~uint64_t{0});
  EXPECT_THAT(Call(*stub_, &InferenceStub::SystemSharedMemoryRegister, region, &registered),
              GrpcStatusIs(grpc::StatusCode::INVALID_ARGUMENT, HasSubstr("18446744073709551615")));
  region.set_offset(64 << 10);
  EXPECT_THAT(Call(*stub_, &InferenceStub::SystemSharedMemoryRegister, region, &registered),
              GrpcStatusIs(grpc::StatusCode::OUT_OF_RANGE, HasSubstr("has 65536 bytes, want 69632")));
}

TEST(OpenInferenceOffTest, SharedMemoryByNameIsOffUnlessAskedFor) {
  app::ServerOptions options = TestOptions();
  options.shared_memory = true;
  TestServer server(options);
  const auto stub = ::inference::GRPCInferenceService::NewStub(server.channel());
  ::inference::SystemSharedMemoryRegisterRequest region;
  region.set_name("tensors");
  ::inference::SystemSharedMemoryRegisterResponse registered;
  EXPECT_THAT(Call(*stub, &InferenceStub::SystemSharedMemoryRegister, region, &registered),
              GrpcStatusIs(grpc::StatusCode::FAILED_PRECONDITION, HasSubstr("--open-inference-shared-memory")));
  ::inference::ServerMetadataResponse metadata;
  ASSERT_THAT(Call(*stub, &InferenceStub::ServerMetadata, ::inference::ServerMetadataRequest(), &metadata), GrpcIsOk());
  EXPECT_THAT(metadata.extensions(), ::testing::Not(::testing::Contains("system_shared_memory")));
}

}  // namespace
}  // namespace normd::tests
