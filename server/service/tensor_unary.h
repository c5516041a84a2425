#ifndef NORMD_SERVER_SERVICE_TENSOR_UNARY_H_
#define NORMD_SERVER_SERVICE_TENSOR_UNARY_H_

#include <grpcpp/support/byte_buffer.h>

#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "proto/wire/message_slices.h"
#include "proto/wire/message_writer.h"
#include "server/registry/call_control.h"
#include "server/registry/committer.h"
#include "server/service/tensor_stream.h"
#include "server/service/unary_call.h"

namespace normd::service {

// Carries out a unary call on tensors whose method is registered raw. A `Job` is the call in its protocol:
//
//   absl::Status Decode(wire::MessageSlices message, Authorize authorize);
//   absl::string_view layer() const;          // what is known of it, also after a failed Decode
//   absl::string_view request_id() const;     // the same
//   TensorCall& call();                       // after Decode
//   void WriteResponse(wire::MessageWriter* writer);
//
// It lives until the call is answered.
template <typename Job>
grpc::ServerUnaryReactor* HandleTensorCall(UnaryCall call, const TensorStreamContext& context,
                                           const grpc::ByteBuffer* request, grpc::ByteBuffer* response,
                                           std::shared_ptr<Job> job) {
  absl::Status status = WithoutExceptions([&]() -> absl::Status {
    wire::MessageSlices message(*request);
    // gRPC would hold the message until the call ends; it goes when the tensors have been gathered.
    const_cast<grpc::ByteBuffer*>(request)->Clear();
    absl::Status decoded =
        job->Decode(std::move(message), [&](access::Role role) { return call.CheckAccess(role, job->layer()); });
    return decoded.ok() ? job->call().Admit() : decoded;
  });
  call.set_request(job->layer(), job->request_id());
  if (status.ok()) {
    status = context.executor->Run(job->call().bytes(), [call, response, job](int threads) {
      registry::CallControl control;
      control.threads = threads;
      control.check_alive = [&call] { return call.CheckAlive(); };
      call.RunAndStore(
          [&](registry::PendingCommitPtr* stored) {
            absl::Status done = job->call().Run(control);
            *stored = job->call().stored();
            return done;
          },
          [call, job](registry::PendingCommitPtr* stored) {
            registry::CallControl once_more;
            once_more.check_alive = [&call] { return call.CheckAlive(); };
            absl::Status done = job->call().RunAgain(once_more);
            *stored = job->call().stored();
            return done;
          },
          [response, job] {
            wire::MessageWriter writer;
            job->WriteResponse(&writer);
            *response = writer.Finish();
            return response->Length();
          });
    });
  }
  if (!status.ok()) call.Finish(status);
  return call.reactor();
}

}  // namespace normd::service

#endif  // NORMD_SERVER_SERVICE_TENSOR_UNARY_H_
