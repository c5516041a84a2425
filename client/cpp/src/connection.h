#ifndef NORMD_CLIENT_CPP_SRC_CONNECTION_H_
#define NORMD_CLIENT_CPP_SRC_CONNECTION_H_

#include <grpcpp/client_context.h>

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "client/cpp/src/byte_stream.h"
#include "client/cpp/src/call_metadata.h"
#include "client/cpp/src/handover.h"
#include "client/cpp/src/retry.h"
#include "client/cpp/src/runtime.h"
#include "client/cpp/src/status.h"
#include "client/cpp/src/stub.h"
#include "normd/options.h"
#include "proto/wire/buffer_pool.h"

namespace normd::internal {

// A channel, and what every call over it has: a deadline, retries, and a status that says what happened. A request is
// built once, with its request_id, and sent as it is on every attempt. Thread-safe.
class Connection {
 public:
  Connection(absl::string_view target, const ClientOptions& options, std::shared_ptr<Runtime> runtime);
  ~Connection() { Wait(); }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  // Until every asynchronous call is done. Must not run inside the `done` of one.
  void Wait();

  Runtime& runtime() { return *runtime_; }
  Stub& stub() { return stub_; }
  const RetryPolicy& retry_policy() const { return options_.retry; }
  const std::shared_ptr<grpc::Channel>& channel() const { return stub_.channel(); }
  // Of the tensors that are sent and received.
  wire::BufferPool& buffers() { return buffers_; }

  absl::Duration TimeoutOf(const CallOptions& options) const { return options.timeout.value_or(options_.timeout); }

  // Sends `request` until it is answered for good; blocks. `request_id` is only for the text of a failure.
  template <typename Response, typename Request>
  absl::StatusOr<Response> Call(const Request& request, const CallOptions& options, absl::string_view request_id = "") {
    Attempts attempts(options_.retry, TimeoutOf(options), runtime_.get());
    for (;;) {
      Response response;
      grpc::ClientContext context;
      AddMetadata(LayerOf(request), options.traceparent, &context);
      // gRPC may let a call through whose deadline has passed already, so that is looked at here.
      const grpc::Status status =
          SetTimeLeft(attempts.Begin(), &context) ? stub_.Call(&context, request, &response) : NoTimeLeft();
      if (status.ok()) return response;
      const std::optional<absl::Duration> pause = attempts.PauseAfter(status);
      if (!pause.has_value()) return Failure(status, attempts, request_id);
      runtime_->Sleep(*pause);
    }
  }

  // The same without blocking, neither here nor between the attempts. `done` runs once, on one of gRPC's threads.
  template <typename Response, typename Request>
  void CallAsync(Request request, const CallOptions& options, std::string request_id,
                 std::function<void(absl::StatusOr<Response>)> done) {
    AddPending();
    auto call = std::make_shared<AsyncCall<Request, Response>>(this, std::move(request), options, std::move(request_id),
                                                               std::move(done));
    call->Attempt();
  }

  // Opens a stream of `method`, which counts as a pending call until it has ended, with a deadline unless `timeout` is
  // infinite. `layer`: that all of it is of, or empty. Streams are not tried again.
  std::shared_ptr<ByteStream> OpenStream(const std::string& method, absl::string_view layer, absl::Duration timeout,
                                         ByteStream::Events events, absl::string_view traceparent = "");
  // As the failure of a call with one attempt.
  absl::Status StreamFailure(const grpc::Status& status, absl::Duration timeout, absl::string_view request_id) const {
    return ToAbslStatus(status, {target_, 1, timeout, request_id});
  }

  // Runs `action` soon on another thread, as one of the pending calls.
  void RunSoon(std::function<void()> action);

 private:
  template <typename Request, typename Response>
  struct AsyncCall : std::enable_shared_from_this<AsyncCall<Request, Response>> {
    AsyncCall(Connection* owner, Request message, const CallOptions& options, std::string id,
              std::function<void(absl::StatusOr<Response>)> callback)
        : connection(owner),
          attempts(owner->options_.retry, owner->TimeoutOf(options), owner->runtime_.get()),
          request(std::move(message)),
          request_id(std::move(id)),
          traceparent(options.traceparent),
          done(std::move(callback)) {}

    void Attempt() {
      context = std::make_unique<grpc::ClientContext>();
      AddMetadata(LayerOf(request), traceparent, context.get());
      response = Response();
      Stub::Done ended = [self = this->shared_from_this()](const grpc::Status& status) {
        handover::Take();
        self->Ended(status);
      };
      if (SetTimeLeft(attempts.Begin(), context.get())) {
        handover::Give();
        connection->stub_.CallAsync(context.get(), &request, &response, std::move(ended));
      } else {
        connection->runtime_->After(absl::ZeroDuration(), [ended = std::move(ended)] { ended(NoTimeLeft()); });
      }
    }

    void Ended(const grpc::Status& status) {
      if (status.ok()) {
        Finish(std::move(response));
      } else if (const std::optional<absl::Duration> pause = attempts.PauseAfter(status)) {
        connection->runtime_->After(*pause, [self = this->shared_from_this()] { self->Attempt(); });
      } else {
        Finish(connection->Failure(status, attempts, request_id));
      }
    }

    // Before the connection may go, this lets go of what may refer to it: whatever the caller's function holds, and the
    // context, which shares the channel. Were that the last reference, gRPC's thread would have to wait for its own
    // end.
    void Finish(absl::StatusOr<Response> result) {
      std::exchange(done, nullptr)(std::move(result));
      context.reset();
      connection->RemovePending();
    }

    Connection* const connection;
    Attempts attempts;
    const Request request;
    const std::string request_id;
    const std::string traceparent;
    std::function<void(absl::StatusOr<Response>)> done;
    std::unique_ptr<grpc::ClientContext> context;
    Response response;
  };

  // False: there is none, the call should not be made.
  static bool SetTimeLeft(absl::Duration left, grpc::ClientContext* context);
  static grpc::Status NoTimeLeft();
  absl::Status Failure(const grpc::Status& status, const Attempts& attempts, absl::string_view request_id) const;
  void AddPending();
  void RemovePending();

  const std::string target_;
  const ClientOptions options_;
  const std::shared_ptr<Runtime> runtime_;
  Stub stub_;
  wire::BufferPool buffers_;

  std::mutex mutex_;
  std::condition_variable idle_;
  int64_t pending_ = 0;  // Guarded by mutex_.
};

}  // namespace normd::internal

#endif  // NORMD_CLIENT_CPP_SRC_CONNECTION_H_
