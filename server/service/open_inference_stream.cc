#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "server/service/call_stream.h"
#include "server/service/open_inference_call.h"
#include "server/service/streams.h"

namespace normd::service {
namespace {

using ::inference::ModelStreamInferResponse;

// A ModelInferRequest on a stream.
class StreamedInference final : public StreamedCall {
 public:
  StreamedInference(const TensorCallContext& context, const OpenInferenceRegions& regions) : call_(context, regions) {}

  absl::Status Decode(wire::MessageSlices message, Authorize authorize, absl::Status* /*unreadable*/) override {
    return call_.Decode(std::move(message), authorize);
  }
  TensorCall& call() override { return call_.call(); }
  absl::string_view method() const override { return "ModelStreamInfer"; }
  absl::string_view layer() const override { return call_.layer(); }
  absl::string_view request_id() const override { return call_.request_id(); }

  grpc::ByteBuffer Success() override {
    wire::MessageWriter writer;
    call_.WriteResponse(&writer);
    writer.WrapIn(ModelStreamInferResponse::kInferResponseFieldNumber, ModelStreamInferResponse());
    return writer.Finish();
  }

  grpc::ByteBuffer Failure(const absl::Status& status) override {
    ModelStreamInferResponse response;
    response.set_error_message(absl::StrCat(absl::StatusCodeToString(status.code()), ": ", status.message()));
    response.mutable_infer_response()->set_model_name(std::string(call_.layer()));
    response.mutable_infer_response()->set_id(call_.id());
    wire::MessageWriter writer;
    writer.AppendFields(response);
    return writer.Finish();
  }

 private:
  OpenInferenceCall call_;
};

}  // namespace

TensorStream* NewModelInferStream(grpc::CallbackServerContext* context, const TensorStreamContext& streams,
                                  const OpenInferenceRegions& regions, OpenStreams* open) {
  return new CallStream(context, "ModelStreamInfer", streams, open,
                        [&] { return std::make_unique<StreamedInference>(streams.call, regions); });
}

}  // namespace normd::service
