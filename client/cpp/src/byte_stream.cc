#include "client/cpp/src/byte_stream.h"

#include <utility>

#include "client/cpp/src/handover.h"

namespace normd::internal {

std::shared_ptr<ByteStream> ByteStream::Start(grpc::GenericStub* stub, const std::string& method,
                                              std::unique_ptr<grpc::ClientContext> context, Events events) {
  std::shared_ptr<ByteStream> stream(new ByteStream(std::move(context), std::move(events)));
  stream->self_ = stream;
  stub->PrepareBidiStreamingCall(stream->context_.get(), method, {}, stream.get());
  stream->StartRead(&stream->incoming_);
  stream->AddHold();
  handover::Give();
  stream->StartCall();
  return stream;
}

void ByteStream::Send(grpc::ByteBuffer message) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (broken_ || closing_) return;
    queue_.push_back(std::move(message));
  }
  Pump();
}

void ByteStream::CloseWrites() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    closing_ = true;
  }
  Pump();
}

void ByteStream::Cancel() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (context_ != nullptr) context_->TryCancel();
}

std::size_t ByteStream::queued() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return queue_.size();
}

void ByteStream::Pump() {
  const grpc::ByteBuffer* next = nullptr;
  bool close = false;
  bool release = false;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (writing_) return;
    if (!broken_ && !queue_.empty()) {
      writing_ = true;
      next = &queue_.front();
    } else if (broken_ || closing_) {
      close = !broken_ && holding_;
      release = std::exchange(holding_, false);
    }
  }
  handover::Give();
  if (next != nullptr) StartWrite(next);
  if (close) StartWritesDone();
  if (release) RemoveHold();
}

void ByteStream::OnWriteDone(bool ok) {
  handover::Take();
  grpc::ByteBuffer sent;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    writing_ = false;
    sent = std::move(queue_.front());
    queue_.pop_front();
    broken_ = broken_ || !ok;
    if (broken_) queue_.clear();
  }
  Pump();
  if (events_.sent) events_.sent();
}

void ByteStream::OnReadDone(bool ok) {
  handover::Take();
  if (ok) {
    events_.received(incoming_);
    incoming_.Clear();
    handover::Give();
    StartRead(&incoming_);
    return;
  }
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    broken_ = true;
  }
  Pump();
}

void ByteStream::OnDone(const grpc::Status& status) {
  handover::Take();
  const std::shared_ptr<ByteStream> self = std::move(self_);
  {
    // Now, since it shares the channel, which must not be let go of by one of gRPC's own threads in the end.
    const std::lock_guard<std::mutex> lock(mutex_);
    context_.reset();
    queue_.clear();
  }
  // They go with this call: whoever listens may hold the stream.
  const Events events = std::move(events_);
  events.ended(status);
}

}  // namespace normd::internal
