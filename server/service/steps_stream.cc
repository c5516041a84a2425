#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/service/status_conversion.h"
#include "server/service/streams.h"

namespace normd::service {
namespace {

class StepsStream final : public TensorStream {
 public:
  StepsStream(grpc::CallbackServerContext* context, const TensorStreamContext& streams, OpenStreams* open)
      : TensorStream(context, "Steps", open), streams_(streams) {}

 private:
  // One call on the stream.
  struct Step {
    explicit Step(CallObserver* observer) : in_flight(observer) {}

    const CallInFlight in_flight;
    int64_t id = 0;
    // Of StepsResponse.result.
    std::uint32_t result_field = 0;
    std::string method;
    std::string layer;
    std::string request_id;
    int64_t request_bytes = 0;
    std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now();
    std::unique_ptr<TensorCall> call;
  };

  void OnMessage(wire::MessageSlices message) override {
    // Shared with its job, which is gone when it is refused.
    const auto step = std::make_shared<Step>(streams_.observer);
    step->request_bytes = static_cast<int64_t>(message.size());
    absl::Status unreadable;
    absl::Status status = WithoutExceptions([&] { return Decode(std::move(message), step.get(), &unreadable); });
    if (!unreadable.ok()) return End(unreadable);
    if (status.ok()) {
      status = streams_.executor->Run(step->call->bytes(), [this, step](int threads) {
        registry::CallControl control;
        control.threads = threads;
        control.check_alive = [this] { return CheckAlive(); };
        absl::Status done = control.CheckAlive();
        if (done.ok()) done = WithoutExceptions([&] { return step->call->Run(control); });
        if (!done.ok()) return AnswerAndGoOn(*step, done);
        registry::WhenStored(step->call->stored(),
                             [this, step](const absl::Status& stored) { AnswerAndGoOn(*step, stored); });
      });
    }
    if (!status.ok()) AnswerAndGoOn(*step, status);
  }

  absl::Status OnLastMessage() override { return absl::OkStatus(); }

  // `unreadable`: the message is none, which ends the stream. Otherwise the status is the call's.
  absl::Status Decode(wire::MessageSlices slices, Step* step, absl::Status* unreadable) {
    ReceivedMessage message{.slices = std::move(slices), .payloads = {}};
    v1::StepsRequest request;
    *unreadable =
        wire::SplitMessage(message.slices, wire::kStepsRequestPayloads, &request, absl::MakeSpan(message.payloads));
    if (!unreadable->ok()) return *unreadable;
    step->id = request.id();
    const auto take = [&](absl::string_view method, std::uint32_t result_field, auto* call) -> absl::Status {
      step->method = absl::StrCat("Steps.", method);
      step->result_field = result_field;
      step->layer = call->layer();
      if constexpr (requires { call->request_id(); }) step->request_id = call->request_id();
      step->call = NewTensorCall(streams_.call, std::move(*call), std::move(message));
      return step->call->Admit();
    };
    switch (request.call_case()) {
      case v1::StepsRequest::kTrainStep:
        return take("TrainStep", v1::StepsResponse::kTrainStepFieldNumber, request.mutable_train_step());
      case v1::StepsRequest::kInfer:
        return take("Infer", v1::StepsResponse::kInferFieldNumber, request.mutable_infer());
      case v1::StepsRequest::kDenormalize:
        return take("Denormalize", v1::StepsResponse::kDenormalizeFieldNumber, request.mutable_denormalize());
      case v1::StepsRequest::kBackward:
        return take("Backward", v1::StepsResponse::kBackwardFieldNumber, request.mutable_backward());
      case v1::StepsRequest::CALL_NOT_SET:
        break;
    }
    step->method = "Steps";
    return absl::InvalidArgumentError("the message holds no call: want train_step, infer, denormalize or backward");
  }

  void AnswerAndGoOn(const Step& step, absl::Status status) {
    grpc::ByteBuffer answer;
    if (status.ok()) {
      status = WithoutExceptions([&] {
        v1::StepsResponse response;
        response.set_id(step.id);
        wire::MessageWriter writer;
        step.call->WriteResult(&writer);
        writer.WrapIn(step.result_field, response);
        answer = writer.Finish();
        return absl::OkStatus();
      });
    }
    if (!status.ok()) answer = Failure(step.id, status);
    streams_.observer->OnCall(CallRecord{.method = step.method,
                                         .layer = step.layer,
                                         .request_id = step.request_id,
                                         .context = context(),
                                         .request_bytes = step.request_bytes,
                                         .response_bytes = static_cast<int64_t>(answer.Length()),
                                         .status = status,
                                         .duration = absl::FromChrono(std::chrono::steady_clock::now() - step.start)});
    Answer(std::move(answer));
    ReadNext();
  }

  static grpc::ByteBuffer Failure(int64_t id, const absl::Status& status) {
    v1::StepsResponse response;
    response.set_id(id);
    v1::CallStatus* out = response.mutable_status();
    out->set_code(static_cast<int>(status.code()));
    out->set_message(std::string(status.message()));
    if (const absl::Duration delay = RetryDelayOf(status); delay > absl::ZeroDuration()) {
      *out->mutable_retry_delay() = ToProtoDuration(delay);
    }
    wire::MessageWriter writer;
    writer.AppendFields(response);
    return writer.Finish();
  }

  const TensorStreamContext& streams_;
};

}  // namespace

TensorStream* NewStepsStream(grpc::CallbackServerContext* context, const TensorStreamContext& streams,
                             OpenStreams* open) {
  return new StepsStream(context, streams, open);
}

}  // namespace normd::service
