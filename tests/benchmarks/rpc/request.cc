#include "tests/benchmarks/rpc/request.h"

#include <grpcpp/impl/codegen/proto_utils.h>

#include <map>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "baseline.pb.h"
#include "inference/open_inference_service.pb.h"
#include "normd/v1/normalization_service.pb.h"
#include "tests/benchmarks/rpc/caller.h"
#include "tests/benchmarks/rpc/workload.h"

namespace normd::benchmarks {
namespace {

absl::string_view Bytes(const Workload& workload) {
  return {reinterpret_cast<const char*>(workload.x().data()), workload.bytes()};
}

// Parses a copy: parsing empties a buffer.
template <typename Message>
absl::StatusOr<Message> Parse(grpc::ByteBuffer answer) {
  Message message;
  const grpc::Status status = grpc::SerializationTraits<Message>::Deserialize(&answer, &message);
  if (!status.ok()) return absl::InternalError(absl::StrCat("cannot parse the answer: ", status.error_message()));
  return message;
}

Request EchoRequest(const std::string& method, const Workload& workload) {
  Blob blob;
  blob.set_data(Bytes(workload).data(), workload.bytes());
  Request request;
  request.method = "/normd.benchmarks.Echo/" + method;
  request.bytes = blob.SerializeAsString();
  request.check = [data = blob.data()](const grpc::ByteBuffer& answer) {
    const absl::StatusOr<Blob> echo = Parse<Blob>(answer);
    if (!echo.ok()) return echo.status();
    return echo->data() == data ? absl::OkStatus() : absl::InternalError("the echo differs from what was sent");
  };
  return request;
}

Request TorchRequest(const std::shared_ptr<const Workload>& workload) {
  NormalizeRequest message;
  message.set_layer(workload->layer());
  message.set_data(Bytes(*workload).data(), workload->bytes());
  message.mutable_shape()->Add(workload->shape().begin(), workload->shape().end());
  message.set_training(workload->operation() == Operation::kTrain);
  Request request;
  request.method = "/normd.benchmarks.BatchNorm/Normalize";
  request.bytes = message.SerializeAsString();
  request.check = [workload](const grpc::ByteBuffer& answer) {
    const absl::StatusOr<Blob> y = Parse<Blob>(answer);
    return y.ok() ? workload->Check(y->data(), kTorchTolerance) : y.status();
  };
  return request;
}

template <typename RequestMessage, typename Answer>
Request NormdRequest(const std::string& method, const std::shared_ptr<const Workload>& workload) {
  RequestMessage message;
  message.set_layer(workload->layer());
  v1::Tensor* x = message.mutable_x();
  x->set_dtype(v1::DATA_TYPE_FLOAT32);
  x->mutable_shape()->Add(workload->shape().begin(), workload->shape().end());
  x->set_data(Bytes(*workload).data(), workload->bytes());
  Request request;
  request.method = "/normd.v1.NormalizationService/" + method;
  request.bytes = message.SerializeAsString();
  request.layer = workload->layer();
  request.check = [workload](const grpc::ByteBuffer& answer) {
    const absl::StatusOr<Answer> parsed = Parse<Answer>(answer);
    return parsed.ok() ? workload->Check(parsed->y().data(), kNormdTolerance) : parsed.status();
  };
  return request;
}

Request OpenInferenceRequest(const std::shared_ptr<const Workload>& workload) {
  ::inference::ModelInferRequest message;
  message.set_model_name(workload->layer());
  ::inference::ModelInferRequest::InferInputTensor* x = message.add_inputs();
  x->set_name("x");
  x->set_datatype("FP32");
  x->mutable_shape()->Add(workload->shape().begin(), workload->shape().end());
  message.add_raw_input_contents(Bytes(*workload).data(), workload->bytes());
  Request request;
  request.method = "/inference.GRPCInferenceService/ModelInfer";
  request.bytes = message.SerializeAsString();
  request.layer = workload->layer();
  request.check = [workload](const grpc::ByteBuffer& answer) {
    const auto parsed = Parse<::inference::ModelInferResponse>(answer);
    return parsed.ok() ? workload->Check(parsed->raw_output_contents(0), kNormdTolerance) : parsed.status();
  };
  return request;
}

using Maker = Request (*)(const std::vector<int64_t>& shape);

std::shared_ptr<const Workload> Infer(const std::vector<int64_t>& shape) {
  return std::make_shared<const Workload>(Operation::kInfer, shape);
}

std::shared_ptr<const Workload> Train(const std::vector<int64_t>& shape) {
  return std::make_shared<const Workload>(Operation::kTrain, shape);
}

const std::map<std::string, Maker>& Makers() {
  using Shape = std::vector<int64_t>;
  static const auto* const makers = new std::map<std::string, Maker>{
      {"echo-raw", [](const Shape& shape) { return EchoRequest("Raw", *Infer(shape)); }},
      {"echo-protobuf", [](const Shape& shape) { return EchoRequest("Protobuf", *Infer(shape)); }},
      {"torch-infer", [](const Shape& shape) { return TorchRequest(Infer(shape)); }},
      {"torch-train", [](const Shape& shape) { return TorchRequest(Train(shape)); }},
      {"normd-infer",
       [](const Shape& shape) { return NormdRequest<v1::InferRequest, v1::InferResponse>("Infer", Infer(shape)); }},
      {"normd-open-inference", [](const Shape& shape) { return OpenInferenceRequest(Infer(shape)); }},
      {"normd-train",
       [](const Shape& shape) {
         return NormdRequest<v1::TrainStepRequest, v1::TrainStepResponse>("TrainStep", Train(shape));
       }},
  };
  return *makers;
}

}  // namespace

std::vector<std::string> CallNames() {
  std::vector<std::string> names;
  for (const auto& [name, maker] : Makers()) names.push_back(name);
  return names;
}

absl::StatusOr<Request> MakeRequest(const std::string& call, const std::vector<int64_t>& shape) {
  const auto found = Makers().find(call);
  if (found == Makers().end()) return absl::InvalidArgumentError(absl::StrCat("there is no call '", call, "'"));
  Request request = found->second(shape);
  request.payload_bytes = sizeof(float);
  for (const int64_t extent : shape) request.payload_bytes *= static_cast<std::size_t>(extent);
  return request;
}

}  // namespace normd::benchmarks
