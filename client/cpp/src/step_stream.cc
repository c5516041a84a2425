#include "client/cpp/src/step_stream.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "client/cpp/src/tensor_call.h"
#include "normd/client.h"
#include "normd/v1/error_details.pb.h"

namespace normd::internal {
namespace {

// A call's own failure, with the details that its unary form has.
absl::Status StatusOf(const v1::CallStatus& status) {
  absl::Status result(static_cast<absl::StatusCode>(status.code()), status.message());
  if (!result.ok() && status.has_retry_delay()) {
    v1::RetryInfo info;
    *info.mutable_retry_delay() = status.retry_delay();
    v1::ErrorStatus details;
    details.set_code(status.code());
    details.set_message(status.message());
    google::protobuf::Any* const detail = details.add_details();
    detail->set_type_url("type.googleapis.com/google.rpc.RetryInfo");
    detail->set_value(info.SerializeAsString());
    result.SetPayload("type.googleapis.com/google.rpc.Status", absl::Cord(details.SerializeAsString()));
  }
  return result;
}

class GrpcStepStream : public StepStream {
 public:
  GrpcStepStream(Connection* connection, const StepStreamOptions& options)
      : connection_(connection), core_(std::make_shared<Core>()) {
    core_->timeout = options.timeout.value_or(absl::InfiniteDuration());
    core_->max_in_flight = std::max(options.max_in_flight, 1);
    core_->connection = connection;
    // Under the lock: what arrives at once finds the stream in its place.
    const std::lock_guard<std::mutex> lock(core_->mutex);
    core_->stream = connection->OpenStream(
        "/normd.v1.NormalizationService/Steps", "", core_->timeout,
        {.received = [core = core_](const grpc::ByteBuffer& message) { core->Received(message); },
         .sent = nullptr,
         .ended = [core = core_](const grpc::Status& status) { core->Ended(status); }});
  }

  ~GrpcStepStream() override {
    core_->stream->Cancel();
    std::unique_lock<std::mutex> lock(core_->mutex);
    core_->changed.wait(lock, [this] { return core_->over && core_->late == 0; });
  }

  void TrainStep(absl::string_view layer, const TensorView& x, const TrainStepOptions& options,
                 std::function<void(absl::StatusOr<TrainStepResult>)> done) override {
    Start(TrainStepCall(layer, x, options, &connection_->runtime()), std::move(done));
  }
  void Infer(absl::string_view layer, const TensorView& x, const InferOptions& options,
             std::function<void(absl::StatusOr<InferResult>)> done) override {
    Start(InferCall(layer, x, options), std::move(done));
  }
  void Denormalize(absl::string_view layer, const TensorView& y, const InferOptions& options,
                   std::function<void(absl::StatusOr<InferResult>)> done) override {
    Start(DenormalizeCall(layer, y, options), std::move(done));
  }
  void Backward(absl::string_view layer, const TensorView& x, const TensorView& dy, const BackwardOptions& options,
                std::function<void(absl::StatusOr<BackwardResult>)> done) override {
    Start(BackwardCall(layer, x, dy, options, &connection_->runtime()), std::move(done));
  }

  absl::Status Finish() override {
    {
      const std::lock_guard<std::mutex> sending(core_->send_mutex);
      {
        const std::lock_guard<std::mutex> lock(core_->mutex);
        core_->finished = true;
      }
      core_->stream->CloseWrites();
    }
    std::unique_lock<std::mutex> lock(core_->mutex);
    core_->changed.wait(lock, [this] { return core_->over && core_->late == 0; });
    return core_->end;
  }

 private:
  struct Pending {
    int64_t id = 0;
    std::string request_id;
    // With the answer, or with a status that is not OK and no answer.
    std::function<void(const absl::Status&, StepAnswer*)> finish;
  };

  // What the stream's events see; outlives the StepStream if it must.
  struct Core {
    Connection* connection = nullptr;
    absl::Duration timeout;
    int max_in_flight = 1;
    std::shared_ptr<ByteStream> stream;
    // Held while a call is put into the queue and sent, so that the two orders are one. Before `mutex`.
    std::mutex send_mutex;

    std::mutex mutex;
    std::condition_variable changed;
    std::deque<Pending> pending;
    int in_flight = 0;
    int64_t last_id = 0;
    // Calls that are refused here, whose `done` has not run.
    int late = 0;
    bool finished = false;
    bool ended = false;
    // Every `done` has run.
    bool over = false;
    absl::Status broken;
    absl::Status end;

    void Received(const grpc::ByteBuffer& message) {
      StepAnswer answer;
      absl::Status status = ReadStep(message, &answer);
      Pending call;
      {
        const std::lock_guard<std::mutex> lock(mutex);
        if (!broken.ok()) return;
        if (status.ok() && (pending.empty() || pending.front().id != answer.response.id())) {
          status = absl::InternalError(absl::StrCat("the server answered call ", answer.response.id(),
                                                    " of the stream, which is not the next one"));
        }
        if (!status.ok()) {
          broken = status;
          stream->Cancel();
          return;
        }
        call = std::move(pending.front());
        pending.pop_front();
        --in_flight;
        changed.notify_all();
      }
      Run(call, StatusOf(answer.response.status()), &answer);
    }

    void Ended(const grpc::Status& status) {
      std::deque<Pending> left;
      grpc::Status why = status;
      {
        const std::lock_guard<std::mutex> lock(mutex);
        ended = true;
        left.swap(pending);
        if (status.ok() && !left.empty()) why = {grpc::StatusCode::UNAVAILABLE, "the server ended the stream"};
        end = broken.ok() ? connection->StreamFailure(why, timeout, "") : broken;
        in_flight = 0;
        changed.notify_all();
      }
      for (const Pending& call : left) {
        Run(call, broken.ok() ? connection->StreamFailure(why, timeout, call.request_id) : broken, nullptr);
      }
      const std::lock_guard<std::mutex> lock(mutex);
      over = true;
      changed.notify_all();
    }

    // Runs a call's `done`.
    void Run(const Pending& call, const absl::Status& status, StepAnswer* answer) {
      const Core* const outer = std::exchange(running, this);
      call.finish(status, answer);
      running = outer;
    }
  };

  template <typename Result>
  void Start(absl::StatusOr<TensorCall> made, std::function<void(absl::StatusOr<Result>)> done) {
    absl::Status status = made.ok() ? OwnInputs(&*made, &connection_->buffers()) : made.status();
    if (!status.ok()) return Refuse(status, std::move(done));
    auto call = std::make_shared<TensorCall>(*std::move(made));
    Pending pending;
    pending.request_id = call->request_id;
    pending.finish = [call, done, pool = &connection_->buffers()](const absl::Status& ended, StepAnswer* answer) {
      done(ended.ok() ? DecodeStep<Result>(*call, answer, pool) : ended);
    };
    {
      // Its place first, and only then its turn: who waits for a place must not keep a `done` from sending.
      std::unique_lock<std::mutex> lock(core_->mutex);
      core_->changed.wait(
          lock, [this] { return core_->in_flight < core_->max_in_flight || core_->ended || running == core_.get(); });
      ++core_->in_flight;
    }
    const std::lock_guard<std::mutex> sending(core_->send_mutex);
    {
      const std::lock_guard<std::mutex> lock(core_->mutex);
      if (core_->ended) {
        status = core_->end.ok() ? absl::FailedPreconditionError("the stream has ended") : core_->end;
      } else if (core_->finished) {
        --core_->in_flight;
        core_->changed.notify_all();
        status = absl::FailedPreconditionError("the stream was finished before this call");
      } else {
        pending.id = ++core_->last_id;
        core_->pending.push_back(pending);
      }
    }
    if (!status.ok()) return Refuse(status, std::move(done));
    grpc::ByteBuffer message = EncodeStep(*call, pending.id);
    // The message holds the tensors now.
    call->inputs.clear();
    core_->stream->Send(std::move(message));
  }

  // Not from here: the caller may hold a lock that `done` takes.
  template <typename Result>
  void Refuse(const absl::Status& status, std::function<void(absl::StatusOr<Result>)> done) {
    {
      const std::lock_guard<std::mutex> lock(core_->mutex);
      ++core_->late;
    }
    connection_->RunSoon([core = core_, status, done = std::move(done)]() mutable {
      std::exchange(done, nullptr)(status);
      const std::lock_guard<std::mutex> lock(core->mutex);
      --core->late;
      core->changed.notify_all();
    });
  }

  // The stream whose `done` runs on this thread.
  static thread_local const Core* running;

  Connection* const connection_;
  const std::shared_ptr<Core> core_;
};

thread_local const GrpcStepStream::Core* GrpcStepStream::running = nullptr;

}  // namespace

std::unique_ptr<StepStream> OpenStepStream(Connection* connection, const StepStreamOptions& options) {
  return std::make_unique<GrpcStepStream>(connection, options);
}

}  // namespace normd::internal
