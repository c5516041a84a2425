#ifndef NORMD_SERVER_SERVICE_TENSOR_STREAM_H_
#define NORMD_SERVER_SERVICE_TENSOR_STREAM_H_

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <deque>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "proto/wire/message_slices.h"
#include "server/base/mutex.h"
#include "server/service/tensor_call.h"
#include "server/service/tensor_executor.h"
#include "server/service/unary_call.h"

namespace normd::service {

class TensorStream;

// The open streams that wait for whatever their client may want next, so that a server that stops need not wait for
// them. Thread-safe.
class OpenStreams {
 public:
  // Each ends, with UNAVAILABLE, when what it has begun is answered; so do those that come later.
  void Stop();

 private:
  friend class TensorStream;
  base::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  absl::flat_hash_set<TensorStream*> streams_ ABSL_GUARDED_BY(mutex_);
};

// What streams of tensors need of the server. All outlive the streams.
struct TensorStreamContext {
  TensorCallContext call;
  TensorExecutor* executor;
  CallObserver* observer;
};

// A bidirectional stream of raw messages that are handled one after the other. While one is handled no other is read,
// and at most a few answers wait for the client, so a stream holds a bounded number of messages. Deletes itself.
class TensorStream : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  // Reads the first message. With `open` (which outlives the stream) it ends when the server stops; without, the server
  // waits for it as for any other call.
  TensorStream(grpc::CallbackServerContext* context, absl::string_view method, OpenStreams* open);

  // For OpenStreams, or by the stream itself.
  void Stop();

 protected:
  ~TensorStream() override = default;

  // Handles a message: ends with one call of ReadNext or End, here or later on any thread. Must not throw.
  virtual void OnMessage(wire::MessageSlices message) = 0;
  // The client has sent all it wanted: the status of the stream.
  virtual absl::Status OnLastMessage() = 0;

  // Sends a message when those before it are sent. Within the handling of a message.
  void Answer(grpc::ByteBuffer message);
  // This message is handled.
  void ReadNext();
  // So is the stream: ends it, when all answers are sent. Nothing of this may be touched afterwards.
  void End(const absl::Status& status);

  absl::Status CheckAlive() const { return service::CheckAlive(*context_, method_); }
  const grpc::CallbackServerContext& context() const { return *context_; }
  absl::string_view method() const { return method_; }

 private:
  void OnReadDone(bool ok) final;
  void OnWriteDone(bool ok) final;
  void OnDone() final;

  // Starts what may be started next. A status: the stream is to be finished with it, without the lock, as the last
  // thing.
  std::optional<absl::Status> Proceed() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void FinishIf(const std::optional<absl::Status>& status);

  grpc::CallbackServerContext* const context_;
  const absl::string_view method_;
  OpenStreams* const open_;
  grpc::ByteBuffer request_;

  base::Mutex mutex_;
  // A message is handled.
  bool handling_ ABSL_GUARDED_BY(mutex_) = false;
  bool wants_message_ ABSL_GUARDED_BY(mutex_) = true;
  bool reading_ ABSL_GUARDED_BY(mutex_) = false;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  // What the stream ends with, once that is known.
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mutex_);
  // The first is the one that is written.
  std::deque<grpc::ByteBuffer> answers_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace normd::service

#endif  // NORMD_SERVER_SERVICE_TENSOR_STREAM_H_
