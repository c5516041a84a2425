#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "normd/client.h"
#include "tests/benchmarks/rpc/caller.h"
#include "tests/benchmarks/rpc/normd_layer.h"

namespace normd::benchmarks {
namespace {

// The SDK's own deadline is 30 s; a server that is loaded on purpose may need longer.
ClientOptions PatientOptions(Transport transport) {
  ClientOptions options;
  options.timeout = absl::Minutes(5);
  options.transport = transport;
  return options;
}

enum class Way { kSync, kAsync, kSharedMemory };

class SdkCaller final : public Caller {
 public:
  SdkCaller(const CallerOptions& options, Operation operation, Way way)
      : workload_(operation, options.shape),
        layer_(workload_.layer()),
        x_(workload_.x(), options.shape),
        way_(way),
        client_(Client::Connect(
            options.target, PatientOptions(way == Way::kSharedMemory ? Transport::kSharedMemory : Transport::kGrpc))) {}

  absl::Status Prepare() override {
    if (way_ == Way::kSharedMemory) {
      // As a user would who wants nothing copied: x is filled in where the server reads it.
      absl::StatusOr<Tensor> x = client_->AllocateTensor(DType::kFloat32, x_.shape);
      if (!x.ok()) return x.status();
      std::memcpy(x->mutable_bytes().data(), x_.data.data(), x_.data.size());
      shared_x_ = *std::move(x);
      x_ = shared_x_.view();
    }
    absl::Status status = EnsureLayer(client_.get(), layer_, workload_.num_channels());
    if (!status.ok()) return status;
    if (workload_.operation() == Operation::kTrain) return CheckOutput(Output(client_->TrainStep(layer_, x_)));
    return CheckOutput(Output(client_->Infer(layer_, x_)));
  }

  void Call(int, Done done) override {
    if (workload_.operation() == Operation::kTrain) {
      if (blocking()) return done(Judge(client_->TrainStep(layer_, x_)));
      client_->TrainStepAsync(layer_, x_, {}, [this, done = std::move(done)](absl::StatusOr<TrainStepResult> result) {
        done(Judge(std::move(result)));
      });
    } else {
      if (blocking()) return done(Judge(client_->Infer(layer_, x_)));
      client_->InferAsync(layer_, x_, {}, [this, done = std::move(done)](absl::StatusOr<InferResult> result) {
        done(Judge(std::move(result)));
      });
    }
  }

  bool blocking() const override { return way_ != Way::kAsync; }

 private:
  static absl::StatusOr<Tensor> Output(absl::StatusOr<TrainStepResult> result) {
    if (!result.ok()) return result.status();
    return std::move(result->y);
  }
  static absl::StatusOr<Tensor> Output(absl::StatusOr<InferResult> result) {
    if (!result.ok()) return result.status();
    return std::move(result->output);
  }

  template <typename Result>
  absl::Status Judge(absl::StatusOr<Result> result) const {
    const absl::StatusOr<Tensor> output = Output(std::move(result));
    if (!output.ok()) return output.status();
    if (output->bytes().size() == workload_.bytes()) return absl::OkStatus();
    return absl::InternalError(absl::StrCat("the answer has ", output->bytes().size(), " bytes"));
  }

  absl::Status CheckOutput(const absl::StatusOr<Tensor>& output) const {
    if (!output.ok()) return output.status();
    return workload_.Check({output->bytes().data(), output->bytes().size()}, kNormdTolerance);
  }

  const Workload workload_;
  const std::string layer_;
  // Of shared memory; x_ views it then.
  Tensor shared_x_;
  TensorView x_;
  const Way way_;
  // Last: it waits for its calls before the rest goes.
  const std::unique_ptr<Client> client_;
};

absl::StatusOr<std::unique_ptr<Caller>> MakeSdkCaller(const CallerOptions& options, Way way) {
  if (options.call == "normd-infer") return std::make_unique<SdkCaller>(options, Operation::kInfer, way);
  if (options.call == "normd-train") return std::make_unique<SdkCaller>(options, Operation::kTrain, way);
  return absl::InvalidArgumentError(absl::StrCat("normd's SDK cannot call '", options.call, "'"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Caller>> MakeSdkSyncCaller(const CallerOptions& options) {
  return MakeSdkCaller(options, Way::kSync);
}

absl::StatusOr<std::unique_ptr<Caller>> MakeSdkAsyncCaller(const CallerOptions& options) {
  return MakeSdkCaller(options, Way::kAsync);
}

absl::StatusOr<std::unique_ptr<Caller>> MakeSdkSharedMemoryCaller(const CallerOptions& options) {
  return MakeSdkCaller(options, Way::kSharedMemory);
}

}  // namespace normd::benchmarks
