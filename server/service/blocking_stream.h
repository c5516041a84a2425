#ifndef NORMD_SERVER_SERVICE_BLOCKING_STREAM_H_
#define NORMD_SERVER_SERVICE_BLOCKING_STREAM_H_

#include <grpcpp/support/server_callback.h>

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "server/base/mutex.h"
#include "server/service/status_conversion.h"
#include "server/service/unary_call.h"

// Streams whose work waits: for the disk, for the store, for the other end. Each runs on a thread of its own, which
// reads or writes one message after the other. They delete themselves.
namespace normd::service {

// An operation of a stream that a thread waits for.
class Operation {
 public:
  void Begin() {
    const base::MutexLock lock(&mutex_);
    done_ = false;
  }
  void End(bool ok) {
    const base::MutexLock lock(&mutex_);
    done_ = true;
    ok_ = ok;
    changed_.notify_one();
  }
  bool Wait() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    std::unique_lock<std::mutex> lock(mutex_.native());
    while (!done_) changed_.wait(lock);
    return ok_;
  }

 private:
  base::Mutex mutex_;
  std::condition_variable changed_;
  bool done_ ABSL_GUARDED_BY(mutex_) = false;
  bool ok_ ABSL_GUARDED_BY(mutex_) = false;
};

template <typename Response>
class BlockingWriteStream final : public grpc::ServerWriteReactor<Response> {
 public:
  // `work` calls Write and returns the status of the call.
  explicit BlockingWriteStream(std::function<absl::Status(BlockingWriteStream*)> work)
      : thread_([this, work = std::move(work)] {
          this->Finish(ToGrpcStatus(WithoutExceptions([&] { return work(this); })));
        }) {}

  // Waits until `response` is on its way; false: nobody reads it.
  bool Write(const Response& response) {
    operation_.Begin();
    this->StartWrite(&response);
    return operation_.Wait();
  }

 private:
  void OnWriteDone(bool ok) override { operation_.End(ok); }
  void OnDone() override {
    thread_.join();
    delete this;
  }

  Operation operation_;
  // Last: it runs as soon as it is made.
  std::thread thread_;
};

template <typename Request>
class BlockingReadStream final : public grpc::ServerReadReactor<Request> {
 public:
  // `work` calls Read, fills in the response and returns the status of the call.
  explicit BlockingReadStream(std::function<absl::Status(BlockingReadStream*)> work)
      : thread_([this, work = std::move(work)] {
          this->Finish(ToGrpcStatus(WithoutExceptions([&] { return work(this); })));
        }) {}

  // Waits for the next message; false: there is none.
  bool Read(Request* request) {
    operation_.Begin();
    this->StartRead(request);
    return operation_.Wait();
  }

 private:
  void OnReadDone(bool ok) override { operation_.End(ok); }
  void OnDone() override {
    thread_.join();
    delete this;
  }

  Operation operation_;
  // Last: it runs as soon as it is made.
  std::thread thread_;
};

}  // namespace normd::service

#endif  // NORMD_SERVER_SERVICE_BLOCKING_STREAM_H_
