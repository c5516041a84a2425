#include <grpcpp/grpcpp.h>

#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "baseline.grpc.pb.h"
#include "tests/benchmarks/rpc/caller.h"
#include "tests/benchmarks/rpc/channel.h"
#include "tests/benchmarks/rpc/workload.h"

namespace normd::benchmarks {
namespace {

class StubCaller final : public Caller {
 public:
  explicit StubCaller(const CallerOptions& options)
      : options_(options), lanes_(static_cast<std::size_t>(options.lanes)) {
    const Workload workload(Operation::kInfer, options.shape);
    blob_.set_data(workload.x().data(), workload.bytes());
  }

  absl::Status Prepare() override {
    absl::StatusOr<std::shared_ptr<grpc::Channel>> channel = ConnectChannel(options_.target);
    if (!channel.ok()) return channel.status();
    stub_ = Echo::NewStub(*channel);
    grpc::ClientContext context;
    Blob answer;
    if (absl::Status status = Judge(stub_->Protobuf(&context, blob_, &answer), answer); !status.ok()) return status;
    return answer.data() == blob_.data() ? absl::OkStatus()
                                         : absl::InternalError("the echo differs from what was sent");
  }

  void Call(int index, Done done) override {
    Lane* const lane = &lanes_[static_cast<std::size_t>(index)];
    lane->done = std::move(done);
    lane->context.emplace();
    lane->answer.Clear();
    stub_->async()->Protobuf(&*lane->context, &blob_, &lane->answer, [this, lane](const grpc::Status& status) {
      // `done` may start the lane's next call, which replaces lane->done.
      const Done finished = std::move(lane->done);
      finished(Judge(status, lane->answer));
    });
  }

  bool blocking() const override { return false; }

 private:
  struct Lane {
    std::optional<grpc::ClientContext> context;
    Blob answer;
    Done done;
  };

  absl::Status Judge(const grpc::Status& status, const Blob& answer) const {
    if (!status.ok()) {
      return absl::Status(static_cast<absl::StatusCode>(status.error_code()),
                          absl::StrCat("Echo.Protobuf: ", status.error_message()));
    }
    if (answer.data().size() == blob_.data().size()) return absl::OkStatus();
    return absl::InternalError(absl::StrCat("Echo.Protobuf: the answer has ", answer.data().size(), " bytes"));
  }

  const CallerOptions options_;
  Blob blob_;
  std::vector<Lane> lanes_;
  std::unique_ptr<Echo::Stub> stub_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Caller>> MakeStubCaller(const CallerOptions& options) {
  if (options.call != "echo-protobuf") {
    return absl::InvalidArgumentError(absl::StrCat("mode stub makes the call echo-protobuf only, not ", options.call));
  }
  return std::make_unique<StubCaller>(options);
}

}  // namespace normd::benchmarks
