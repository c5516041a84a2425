#ifndef NORMD_CLIENT_CPP_SRC_BYTE_STREAM_H_
#define NORMD_CLIENT_CPP_SRC_BYTE_STREAM_H_

#include <grpcpp/client_context.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/client_callback.h>
#include <grpcpp/support/status.h>

#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

namespace normd::internal {

// A bidirectional stream of messages that are encoded and decoded elsewhere. Thread-safe.
class ByteStream : private grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  // What happens on the stream, on gRPC's threads.
  struct Events {
    // The next message; the one after it is read when this returns.
    std::function<void(const grpc::ByteBuffer&)> received;
    // A message has left the queue.
    std::function<void()> sent;
    // The last of all.
    std::function<void(const grpc::Status&)> ended;
  };

  // `context` has its deadline. The stream lives until it has ended, even if nobody holds it.
  static std::shared_ptr<ByteStream> Start(grpc::GenericStub* stub, const std::string& method,
                                           std::unique_ptr<grpc::ClientContext> context, Events events);

  // Messages go out in this order, one after the other. Once the stream is broken they are dropped.
  void Send(grpc::ByteBuffer message);
  // Nothing more will be sent.
  void CloseWrites();
  void Cancel();
  // Messages that Send took and that have not left.
  std::size_t queued() const;

 private:
  explicit ByteStream(std::unique_ptr<grpc::ClientContext> context, Events events)
      : events_(std::move(events)), context_(std::move(context)) {}

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;

  // Starts what can be started. One thing at a time, so it needs no lock while gRPC is called.
  void Pump();

  Events events_;
  std::shared_ptr<ByteStream> self_;
  grpc::ByteBuffer incoming_;

  mutable std::mutex mutex_;
  // Guarded by mutex_; null when the stream has ended.
  std::unique_ptr<grpc::ClientContext> context_;
  // The first of the queue is being written while `writing_`.
  std::deque<grpc::ByteBuffer> queue_;
  bool writing_ = false;
  bool closing_ = false;
  bool broken_ = false;
  // Whether gRPC still waits for us to say that nothing more will be started from outside of its callbacks.
  bool holding_ = true;
};

}  // namespace normd::internal

#endif  // NORMD_CLIENT_CPP_SRC_BYTE_STREAM_H_
