#include "server/service/tensor_stream.h"

#include <cstddef>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/service/status_conversion.h"

namespace normd::service {
namespace {

// Answers that wait before the next message is read: as many as keep both directions busy.
constexpr std::size_t kMaxAnswers = 4;

}  // namespace

void OpenStreams::Stop() {
  const base::MutexLock lock(&mutex_);
  stopping_ = true;
  // None goes meanwhile: its OnDone waits for this lock.
  for (TensorStream* stream : streams_) stream->Stop();
}

TensorStream::TensorStream(grpc::CallbackServerContext* context, absl::string_view method, OpenStreams* open)
    : context_(context), method_(method), open_(open) {
  if (open_ != nullptr) {
    const base::MutexLock lock(&open_->mutex_);
    open_->streams_.insert(this);
    if (open_->stopping_) stopping_ = true;
  }
  std::optional<absl::Status> end;
  {
    const base::MutexLock lock(&mutex_);
    end = Proceed();
  }
  FinishIf(end);
}

std::optional<absl::Status> TensorStream::Proceed() {
  if (stopping_ && !handling_ && !end_.has_value()) end_ = absl::UnavailableError("the server is stopping");
  if (!writing_ && !answers_.empty()) {
    writing_ = true;
    StartWrite(&answers_.front());
  }
  if (end_.has_value()) {
    if (finished_ || handling_ || writing_) return std::nullopt;
    finished_ = true;
    return end_;
  }
  if (wants_message_ && !reading_ && answers_.size() < kMaxAnswers) {
    wants_message_ = false;
    reading_ = true;
    StartRead(&request_);
  }
  return std::nullopt;
}

void TensorStream::FinishIf(const std::optional<absl::Status>& status) {
  if (status.has_value()) Finish(ToGrpcStatus(*status));
}

void TensorStream::OnReadDone(bool ok) {
  {
    const base::MutexLock lock(&mutex_);
    reading_ = false;
    if (end_.has_value()) return;
    handling_ = true;
  }
  if (!ok) {
    // Also what a cancelled call looks like.
    absl::Status alive = CheckAlive();
    End(alive.ok() ? OnLastMessage() : alive);
    return;
  }
  wire::MessageSlices message(request_);
  request_.Clear();
  OnMessage(std::move(message));
}

void TensorStream::Answer(grpc::ByteBuffer message) {
  const base::MutexLock lock(&mutex_);
  if (end_.has_value()) return;
  answers_.push_back(std::move(message));
  // Ends nothing: a message is handled.
  Proceed();
}

void TensorStream::ReadNext() {
  std::optional<absl::Status> end;
  {
    const base::MutexLock lock(&mutex_);
    handling_ = false;
    wants_message_ = true;
    end = Proceed();
  }
  FinishIf(end);
}

void TensorStream::End(const absl::Status& status) {
  std::optional<absl::Status> end;
  {
    const base::MutexLock lock(&mutex_);
    handling_ = false;
    if (!end_.has_value()) end_ = status;
    end = Proceed();
  }
  FinishIf(end);
}

void TensorStream::OnWriteDone(bool ok) {
  std::optional<absl::Status> end;
  {
    const base::MutexLock lock(&mutex_);
    writing_ = false;
    answers_.pop_front();
    if (!ok) {
      answers_.clear();
      if (!end_.has_value()) end_ = absl::UnavailableError("the connection is gone");
    }
    end = Proceed();
  }
  FinishIf(end);
}

void TensorStream::Stop() {
  std::optional<absl::Status> end;
  {
    const base::MutexLock lock(&mutex_);
    stopping_ = true;
    end = Proceed();
  }
  FinishIf(end);
}

void TensorStream::OnDone() {
  if (open_ != nullptr) {
    const base::MutexLock lock(&open_->mutex_);
    open_->streams_.erase(this);
  }
  delete this;
}

}  // namespace normd::service
