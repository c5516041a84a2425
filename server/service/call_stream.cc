#include "server/service/call_stream.h"

#include <utility>

#include "absl/time/time.h"
#include "server/registry/call_control.h"
#include "server/registry/committer.h"

namespace normd::service {

CallStream::CallStream(grpc::CallbackServerContext* context, absl::string_view method,
                       const TensorStreamContext& streams, OpenStreams* open, NewCall new_call)
    : TensorStream(context, method, open),
      streams_(streams),
      caller_(streams.observer->CallerOf(*context)),
      new_call_(std::move(new_call)) {}

void CallStream::OnMessage(wire::MessageSlices message) {
  // Shared with its job, which is gone when it is refused.
  const auto step = std::make_shared<Step>(streams_.observer);
  step->request_bytes = static_cast<int64_t>(message.size());
  step->call = new_call_();
  absl::Status unreadable;
  absl::Status status = WithoutExceptions([&] {
    const auto authorize = [&](access::Role role) { return CheckCall(caller_, role, step->call->layer()); };
    absl::Status decoded = step->call->Decode(std::move(message), authorize, &unreadable);
    return decoded.ok() ? step->call->call().Admit() : decoded;
  });
  if (!unreadable.ok()) return End(unreadable);
  if (status.ok()) {
    status = streams_.executor->Run(step->call->call().bytes(), [this, step](int threads) {
      TensorCall& call = step->call->call();
      registry::CallControl control;
      control.threads = threads;
      control.check_alive = [this] { return CheckAlive(); };
      absl::Status done = control.CheckAlive();
      if (done.ok()) done = WithoutExceptions([&] { return call.Run(control); });
      if (!done.ok()) return AnswerAndGoOn(*step, done);
      const auto again = [this, step](registry::PendingCommitPtr* stored) {
        TensorCall& same = step->call->call();
        registry::CallControl once_more;
        once_more.check_alive = [this] { return CheckAlive(); };
        absl::Status made = once_more.CheckAlive();
        if (made.ok()) made = WithoutExceptions([&] { return same.RunAgain(once_more); });
        *stored = same.stored();
        return made;
      };
      registry::WhenStored(call.stored(), again,
                           [this, step](const absl::Status& stored) { AnswerAndGoOn(*step, stored); });
    });
  }
  if (!status.ok()) AnswerAndGoOn(*step, status);
}

void CallStream::AnswerAndGoOn(Step& step, absl::Status status) {
  grpc::ByteBuffer answer;
  if (status.ok()) {
    status = WithoutExceptions([&] {
      answer = step.call->Success();
      return absl::OkStatus();
    });
  }
  if (!status.ok()) answer = step.call->Failure(status);
  streams_.observer->OnCall(CallRecord{.method = step.call->method(),
                                       .layer = step.call->layer(),
                                       .request_id = step.call->request_id(),
                                       .context = context(),
                                       .request_bytes = step.request_bytes,
                                       .response_bytes = static_cast<int64_t>(answer.Length()),
                                       .status = status,
                                       .duration = absl::FromChrono(std::chrono::steady_clock::now() - step.start)});
  Answer(answer);
  ReadNext();
}

}  // namespace normd::service
