#ifndef NORMD_SERVER_SERVICE_CALL_STREAM_H_
#define NORMD_SERVER_SERVICE_CALL_STREAM_H_

#include <grpcpp/support/byte_buffer.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "proto/wire/message_slices.h"
#include "server/service/tensor_call.h"
#include "server/service/tensor_stream.h"

namespace normd::service {

// One of many calls on a stream, in the stream's protocol.
class StreamedCall {
 public:
  virtual ~StreamedCall() = default;

  // Reads the call. A status is the call's, and the stream goes on, unless `unreadable` gets one: that ends the stream.
  virtual absl::Status Decode(wire::MessageSlices message, Authorize authorize, absl::Status* unreadable) = 0;
  // After Decode.
  virtual TensorCall& call() = 0;
  // For those who observe: "Steps.Infer"; also after a failed Decode.
  virtual absl::string_view method() const = 0;
  // The same, as far as they are known; empty: none.
  virtual absl::string_view layer() const = 0;
  virtual absl::string_view request_id() const = 0;
  // The answer, once the call has run; once.
  virtual grpc::ByteBuffer Success() = 0;
  virtual grpc::ByteBuffer Failure(const absl::Status& status) = 0;
};

// A stream of calls that are carried out and answered one after the other. Ends when the client has sent all.
class CallStream final : public TensorStream {
 public:
  using NewCall = std::function<std::unique_ptr<StreamedCall>()>;

  // `streams` and `open` outlive the stream.
  CallStream(grpc::CallbackServerContext* context, absl::string_view method, const TensorStreamContext& streams,
             OpenStreams* open, NewCall new_call);

 private:
  // A call that is under way.
  struct Step {
    explicit Step(CallObserver* observer) : in_flight(observer) {}

    const CallInFlight in_flight;
    int64_t request_bytes = 0;
    std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now();
    std::unique_ptr<StreamedCall> call;
  };

  void OnMessage(wire::MessageSlices message) override;
  absl::Status OnLastMessage() override { return absl::OkStatus(); }
  void AnswerAndGoOn(Step& step, absl::Status status);

  const TensorStreamContext& streams_;
  const access::Caller caller_;
  const NewCall new_call_;
};

}  // namespace normd::service

#endif  // NORMD_SERVER_SERVICE_CALL_STREAM_H_
