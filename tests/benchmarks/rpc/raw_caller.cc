#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <condition_variable>
#include <mutex>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/benchmarks/rpc/caller.h"
#include "tests/benchmarks/rpc/channel.h"
#include "tests/benchmarks/rpc/normd_layer.h"
#include "tests/benchmarks/rpc/request.h"

namespace normd::benchmarks {
namespace {

class RawCaller final : public Caller {
 public:
  RawCaller(const CallerOptions& options, Request request)
      : options_(options), request_(std::move(request)), lanes_(static_cast<std::size_t>(options.lanes)) {
    // The slice refers to the bytes and copies nothing.
    const grpc::Slice slice(request_.bytes.data(), request_.bytes.size(), grpc::Slice::STATIC_SLICE);
    request_buffer_ = grpc::ByteBuffer(&slice, 1);
  }

  absl::Status Prepare() override {
    if (!request_.layer.empty()) {
      const std::unique_ptr<Client> client = Client::Connect(options_.target);
      absl::Status status = EnsureLayer(client.get(), request_.layer, options_.shape[1]);
      if (!status.ok()) return status;
    }
    absl::StatusOr<std::shared_ptr<grpc::Channel>> channel = ConnectChannel(options_.target);
    if (!channel.ok()) return channel.status();
    stub_.emplace(*std::move(channel));
    return CheckOne();
  }

  void Call(int index, Done done) override {
    Lane* const lane = &lanes_[static_cast<std::size_t>(index)];
    lane->done = std::move(done);
    lane->context.emplace();
    lane->response.Clear();
    stub_->UnaryCall(&*lane->context, request_.method, grpc::StubOptions(), &request_buffer_, &lane->response,
                     [this, lane](const grpc::Status& status) {
                       // `done` may start the lane's next call, which replaces lane->done.
                       const Done finished = std::move(lane->done);
                       finished(Judge(status, lane->response));
                     });
  }

  bool blocking() const override { return false; }

 private:
  struct Lane {
    std::optional<grpc::ClientContext> context;
    grpc::ByteBuffer response;
    Done done;
  };

  absl::Status Judge(const grpc::Status& status, const grpc::ByteBuffer& response) const {
    if (!status.ok()) {
      return absl::Status(static_cast<absl::StatusCode>(status.error_code()),
                          absl::StrCat(request_.method, ": ", status.error_message()));
    }
    if (response.Length() < request_.payload_bytes) {
      return absl::InternalError(absl::StrCat(request_.method, ": the answer has only ", response.Length(), " bytes"));
    }
    return absl::OkStatus();
  }

  absl::Status CheckOne() {
    std::mutex mutex;
    std::condition_variable answered;
    std::optional<absl::Status> result;
    Call(0, [&](absl::Status status) {
      const std::lock_guard<std::mutex> lock(mutex);
      result = std::move(status);
      answered.notify_all();
    });
    std::unique_lock<std::mutex> lock(mutex);
    answered.wait(lock, [&] { return result.has_value(); });
    return result->ok() ? request_.check(lanes_[0].response) : *result;
  }

  const CallerOptions options_;
  const Request request_;
  grpc::ByteBuffer request_buffer_;
  std::vector<Lane> lanes_;
  std::optional<grpc::GenericStub> stub_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Caller>> MakeRawCaller(const CallerOptions& options) {
  absl::StatusOr<Request> request = MakeRequest(options.call, options.shape);
  if (!request.ok()) return request.status();
  return std::make_unique<RawCaller>(options, *std::move(request));
}

}  // namespace normd::benchmarks
