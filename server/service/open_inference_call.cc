#include "server/service/open_inference_call.h"

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/slice.h>

#include <cstddef>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "server/base/quoted.h"
#include "server/layer/layer_error.h"
#include "server/layer/tensor.h"
#include "server/service/tensor_conversion.h"

namespace normd::service {
namespace {

using ::inference::InferParameter;
using ::inference::InferTensorContents;
using ::inference::ModelInferRequest;
using ::inference::ModelInferResponse;

// Names of elements in the protocol and in ours.
struct Datatype {
  absl::string_view name;
  v1::DataType dtype;
};
constexpr Datatype kDatatypes[] = {{"FP32", v1::DATA_TYPE_FLOAT32},
                                   {"FP64", v1::DATA_TYPE_FLOAT64},
                                   {"FP16", v1::DATA_TYPE_FLOAT16},
                                   {"BF16", v1::DATA_TYPE_BFLOAT16}};

v1::DataType ToDataType(absl::string_view name) {
  for (const Datatype& datatype : kDatatypes) {
    if (datatype.name == name) return datatype.dtype;
  }
  return v1::DATA_TYPE_UNSPECIFIED;
}

absl::string_view ToDatatype(v1::DataType dtype) {
  for (const Datatype& datatype : kDatatypes) {
    if (datatype.dtype == dtype) return datatype.name;
  }
  return "";
}

absl::Status Invalid(absl::string_view model, absl::string_view text) {
  return absl::InvalidArgumentError(absl::StrCat(layer::LayerPrefix(model), text));
}

// Without a meaning here.
bool IsForOthers(absl::string_view parameter) {
  return parameter == "priority" || parameter == "timeout" || parameter == "headers" ||
         parameter == "binary_data_output" || parameter == "triton_enable_empty_final_response";
}

// The elements follow by themselves.
void AddChannelOutput(absl::string_view name, const google::protobuf::RepeatedField<double>& values,
                      ModelInferResponse* response) {
  ModelInferResponse::InferOutputTensor* const output = response->add_outputs();
  output->set_name(std::string(name));
  output->set_datatype("FP64");
  output->add_shape(values.size());
}

template <typename T>
grpc::Slice ToSlice(const google::protobuf::RepeatedField<T>& values) {
  return grpc::Slice(values.data(), static_cast<std::size_t>(values.size()) * sizeof(T));
}

}  // namespace

absl::StatusOr<registry::LayerRegistry::SnapshotPtr> FindModelVersion(const registry::LayerRegistry& registry,
                                                                      absl::string_view model_name,
                                                                      absl::string_view version) {
  int64_t number = 0;
  const bool is_number = !version.empty() && absl::ascii_isdigit(static_cast<unsigned char>(version[0])) &&
                         absl::SimpleAtoi(version, &number) && number > 0;
  if (!version.empty() && !is_number) {
    return Invalid(model_name,
                   absl::StrCat("version is ", base::Quoted(version), ", want a number above 0, or nothing"));
  }
  absl::StatusOr<registry::LayerRegistry::SnapshotPtr> found = registry.Get(model_name, number);
  // The protocol's word for it.
  if (absl::IsFailedPrecondition(found.status())) return absl::NotFoundError(found.status().message());
  return found;
}

absl::Status OpenInferenceCall::Decode(wire::MessageSlices message, Authorize authorize) {
  ReceivedMessage received{.slices = std::move(message), .payloads = {}};
  absl::Status status = wire::SplitMessage(received.slices, wire::kModelInferRequestPayloads, &request_,
                                           absl::MakeSpan(received.payloads));
  if (status.ok()) status = ReadParameters();
  if (status.ok()) status = authorize(training_ ? access::Role::kTrain : access::Role::kRead);
  if (status.ok()) status = ReadOutputs();
  v1::Tensor x;
  if (status.ok()) status = ReadInput(&received, &x);
  if (!status.ok()) return status;

  // Where y goes, if not into the answer.
  std::unique_ptr<v1::SharedMemoryRange> y_range;
  for (const ModelInferRequest::InferRequestedOutputTensor& output : request_.outputs()) {
    status = ReadRange(absl::StrCat("output ", output.name()), output.parameters(),
                       TensorBytes(x, received.payloads[0]), &y_range);
    if (!status.ok()) return status;
    if (y_range != nullptr && output.name() != "y") {
      return Invalid(layer(), absl::StrCat("output ", output.name(), " cannot go into shared memory, only y can"));
    }
  }
  int64_t version = 0;
  if (!request_.model_version().empty()) {
    absl::StatusOr<registry::LayerRegistry::SnapshotPtr> found =
        FindModelVersion(*context_.registry, layer(), request_.model_version());
    if (!found.ok()) return found.status();
    version = (*found)->version;
  }
  if (training_) {
    if (version != 0) {
      return Invalid(layer(),
                     absl::StrCat("version is ", version, ", want none: a training step is one of the newest version"));
    }
    v1::TrainStepRequest step;
    step.set_layer(request_.model_name());
    *step.mutable_x() = std::move(x);
    step.set_request_id(request_id_);
    step.set_omit_output(!wants_y_);
    step.set_allocated_y_shared_memory(y_range.release());
    call_ = NewTensorCall(context_, std::move(step), std::move(received));
  } else {
    v1::InferRequest infer;
    infer.set_layer(request_.model_name());
    *infer.mutable_x() = std::move(x);
    infer.set_version(version);
    infer.set_allocated_y_shared_memory(y_range.release());
    call_ = NewTensorCall(context_, std::move(infer), std::move(received));
  }
  return absl::OkStatus();
}

absl::Status OpenInferenceCall::ReadParameters() {
  for (const auto& [name, value] : request_.parameters()) {
    const auto wrong_type = [&, &key = name](absl::string_view want) {
      return Invalid(layer(), absl::StrCat("parameter ", key, " has a value of another type, want ", want));
    };
    if (name == "training") {
      if (value.parameter_choice_case() != InferParameter::kBoolParam) return wrong_type("bool_param");
      training_ = value.bool_param();
    } else if (name == "request_id") {
      if (value.parameter_choice_case() != InferParameter::kStringParam) return wrong_type("string_param");
      request_id_ = value.string_param();
    } else if (name == "layout") {
      if (value.parameter_choice_case() != InferParameter::kStringParam) return wrong_type("string_param");
      const std::string& layout = value.string_param();
      if (layout != "channels_first" && layout != "channels_last") {
        return Invalid(layer(), absl::StrCat("parameter layout is ", base::Quoted(layout),
                                             ", want channels_first or channels_last"));
      }
      layout_ = layout == "channels_last" ? v1::LAYOUT_CHANNELS_LAST : v1::LAYOUT_CHANNELS_FIRST;
    } else if (!IsForOthers(name)) {
      return Invalid(layer(), absl::StrCat("parameter ", base::Quoted(name),
                                           " is not known, want training, request_id or layout"));
    }
  }
  if (!request_id_.empty() && !training_) {
    return Invalid(layer(), "parameter request_id is set, which is for training steps: want training as well");
  }
  return absl::OkStatus();
}

absl::Status OpenInferenceCall::ReadOutputs() {
  wants_y_ = request_.outputs_size() == 0;
  absl::flat_hash_set<absl::string_view> seen;
  for (const ModelInferRequest::InferRequestedOutputTensor& output : request_.outputs()) {
    if (!seen.insert(output.name()).second) {
      return Invalid(layer(), absl::StrCat("output ", base::Quoted(output.name()), " is asked for twice"));
    }
    const bool of_step = output.name() == "batch_mean" || output.name() == "batch_var";
    if (output.name() == "y") {
      wants_y_ = true;
    } else if (!of_step || !training_) {
      return Invalid(layer(), absl::StrCat("there is no output ", base::Quoted(output.name()), ", want ",
                                           training_ ? "y, batch_mean or batch_var" : "y"));
    }
  }
  return absl::OkStatus();
}

absl::Status OpenInferenceCall::ReadInput(ReceivedMessage* message, v1::Tensor* x) {
  if (request_.inputs_size() != 1 || request_.inputs(0).name() != "x") {
    std::string names;
    for (const ModelInferRequest::InferInputTensor& input : request_.inputs()) {
      absl::StrAppend(&names, names.empty() ? "" : ", ", base::Quoted(input.name()));
    }
    return Invalid(layer(), absl::StrCat("the inputs are ", names.empty() ? "none" : names, ", want x"));
  }
  const ModelInferRequest::InferInputTensor& input = request_.inputs(0);
  x->set_dtype(ToDataType(input.datatype()));
  if (x->dtype() == v1::DATA_TYPE_UNSPECIFIED) {
    return Invalid(layer(),
                   absl::StrCat("x has datatype ", base::Quoted(input.datatype()), ", want FP32, FP64, FP16 or BF16"));
  }
  *x->mutable_shape() = input.shape();
  x->set_layout(layout_);
  absl::StatusOr<layer::TensorView> view = ToTensorView(layer(), "x", *x, {});
  if (!view.ok()) return view.status();
  absl::StatusOr<layer::NcsShape> ncs = layer::ToNcs(view->shape, view->layout, view->dtype);
  if (!ncs.ok()) return layer::ForLayer(layer(), ncs.status());
  const int64_t bytes = ncs->size() * layer::ElementBytes(view->dtype);

  std::unique_ptr<v1::SharedMemoryRange> range;
  if (absl::Status status = ReadRange("x", input.parameters(), bytes, &range); !status.ok()) return status;
  const int raw = (message->payloads[0].begin > 0 ? 1 : 0) + request_.raw_input_contents_size();
  const int places = (range != nullptr ? 1 : 0) + (input.has_contents() ? 1 : 0) + raw;
  if (places != 1) {
    return Invalid(layer(), absl::StrCat("x has its elements in ", places, " places, of them ", raw,
                                         " in raw_input_contents; want one of raw_input_contents (one entry), "
                                         "contents or shared memory"));
  }
  x->set_allocated_shared_memory(range.release());
  if (!input.has_contents()) return absl::OkStatus();
  return TakeTypedElements(bytes, message);
}

absl::Status OpenInferenceCall::TakeTypedElements(int64_t want_bytes, ReceivedMessage* message) const {
  const ModelInferRequest::InferInputTensor& input = request_.inputs(0);
  const InferTensorContents& contents = input.contents();
  grpc::Slice elements;
  if (input.datatype() == "FP32") {
    elements = ToSlice(contents.fp32_contents());
  } else if (input.datatype() == "FP64") {
    elements = ToSlice(contents.fp64_contents());
  } else {
    return Invalid(layer(), absl::StrCat("x of datatype ", input.datatype(),
                                         " has its elements in contents, want them in raw_input_contents"));
  }
  if (static_cast<int64_t>(elements.size()) != want_bytes) {
    return Invalid(
        layer(),
        absl::StrCat("x has ", elements.size(), " bytes in ", absl::AsciiStrToLower(input.datatype()),
                     "_contents, want ", want_bytes, " for shape ",
                     layer::ShapeToString({input.shape().data(), static_cast<std::size_t>(input.shape_size())})));
  }
  message->payloads[0] = {.begin = 0, .size = elements.size()};
  message->slices = wire::MessageSlices(grpc::ByteBuffer(&elements, 1));
  return absl::OkStatus();
}

absl::Status OpenInferenceCall::ReadRange(absl::string_view what,
                                          const google::protobuf::Map<std::string, InferParameter>& parameters,
                                          int64_t bytes, std::unique_ptr<v1::SharedMemoryRange>* range) const {
  const InferParameter* region = nullptr;
  std::optional<int64_t> byte_size;
  int64_t offset = 0;
  for (const auto& [name, value] : parameters) {
    const bool is_integer = value.parameter_choice_case() == InferParameter::kInt64Param;
    if (name == "shared_memory_region" && value.parameter_choice_case() == InferParameter::kStringParam) {
      region = &value;
    } else if (name == "shared_memory_byte_size" && is_integer) {
      byte_size = value.int64_param();
    } else if (name == "shared_memory_offset" && is_integer) {
      offset = value.int64_param();
    } else if (name != "binary_data" && name != "binary_data_size") {
      return Invalid(layer(),
                     absl::StrCat(what, " has a parameter ", base::Quoted(name),
                                  " that is not known or of the wrong type, want shared_memory_region (string_param), "
                                  "shared_memory_byte_size and shared_memory_offset (int64_param)"));
    }
  }
  if (region == nullptr && !byte_size.has_value()) return absl::OkStatus();
  if (region == nullptr || !byte_size.has_value()) {
    return Invalid(layer(),
                   absl::StrCat(what, " has one of shared_memory_region and shared_memory_byte_size, want both"));
  }
  if (*byte_size != bytes) {
    return Invalid(layer(), absl::StrCat(what, " has a shared_memory_byte_size of ", *byte_size, ", want ", bytes,
                                         " as the shape of x says"));
  }
  absl::StatusOr<v1::SharedMemoryRange> found = regions_.Find(what, region->string_param(), offset, bytes);
  if (!found.ok()) return layer::ForLayer(layer(), found.status());
  *range = std::make_unique<v1::SharedMemoryRange>(*std::move(found));
  return absl::OkStatus();
}

void OpenInferenceCall::WriteResponse(wire::MessageWriter* writer) {
  ModelInferResponse& response = *google::protobuf::Arena::CreateMessage<ModelInferResponse>(&arena_);
  response.set_model_name(request_.model_name());
  response.set_id(id());
  google::protobuf::Map<std::string, InferParameter>& parameters = *response.mutable_parameters();
  const v1::TrainStepResponse* step = nullptr;
  if (training_) {
    step = static_cast<const v1::TrainStepResponse*>(&call_->response());
    response.set_model_version(absl::StrCat(step->version()));
    parameters["content_hash"].set_string_param(step->content_hash());
    parameters["num_batches_tracked"].set_int64_param(step->num_batches_tracked());
    if (step->replayed()) parameters["replayed"].set_bool_param(true);
  } else {
    const auto& infer = static_cast<const v1::InferResponse&>(call_->response());
    response.set_model_version(absl::StrCat(infer.version()));
    parameters["content_hash"].set_string_param(infer.content_hash());
  }

  // One entry each, in the order of the outputs, which the response's other fields precede.
  std::vector<grpc::Slice> elements;
  const auto add_y = [&](const google::protobuf::Map<std::string, InferParameter>* range) {
    std::optional<TensorOutput> y = call_->TakeOutput();
    ModelInferResponse::InferOutputTensor* const output = response.add_outputs();
    output->set_name("y");
    output->set_datatype(std::string(ToDatatype(y->header().dtype())));
    *output->mutable_shape() = y->header().shape();
    if (y->in_region() && range != nullptr) *output->mutable_parameters() = *range;
    elements.push_back(std::move(*y).TakeElements());
  };
  if (request_.outputs_size() == 0) add_y(nullptr);
  for (const ModelInferRequest::InferRequestedOutputTensor& output : request_.outputs()) {
    if (output.name() == "y") {
      add_y(&output.parameters());
    } else {
      const auto& values = output.name() == "batch_mean" ? step->batch_mean() : step->batch_var();
      AddChannelOutput(output.name(), values, &response);
      elements.push_back(ToSlice(values));
    }
  }
  writer->AppendFields(response);
  for (grpc::Slice& slice : elements) {
    writer->AppendBytes(ModelInferResponse::kRawOutputContentsFieldNumber, std::move(slice));
  }
}

}  // namespace normd::service
