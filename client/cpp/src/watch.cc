#include "client/cpp/src/watch.h"

#include <grpcpp/client_context.h>
#include <grpcpp/support/sync_stream.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>
#include <string>
#include <utility>

#include "client/cpp/src/convert.h"
#include "client/cpp/src/retry.h"
#include "normd/v1/layer_service.pb.h"

namespace normd::internal {
namespace {

class Watch final : public LayerWatch {
 public:
  Watch(Connection* connection, const WatchOptions& options)
      : connection_(connection), policy_(connection->retry_policy()), backoff_(policy_.initial_backoff) {
    for (const std::string& name : options.names) request_.add_names(name);
    request_.set_prefix(options.prefix);
    request_.set_view(options.with_state ? v1::LAYER_VIEW_STATE : v1::LAYER_VIEW_CONFIG);
    const absl::Duration interval = options.min_interval;
    request_.mutable_min_interval()->set_seconds(absl::ToInt64Seconds(interval));
    request_.mutable_min_interval()->set_nanos(
        static_cast<int32_t>(absl::ToInt64Nanoseconds(interval - absl::Seconds(absl::ToInt64Seconds(interval)))));
    for (const KnownLayer& known : options.known) known_[known.name] = known;
  }

  ~Watch() override {
    Cancel();
    Close();
  }

  absl::StatusOr<LayerChange> Next() override {
    while (true) {
      if (!ended_.ok()) return ended_;
      if (reader_ == nullptr && !Open()) continue;
      v1::WatchLayersResponse response;
      if (reader_->Read(&response)) return Take(response);
      const grpc::Status status = Close();
      const std::lock_guard<std::mutex> lock(mutex_);
      if (cancelled_) {
        ended_ = absl::CancelledError("the watch was cancelled");
      } else if (status.error_code() != grpc::UNAVAILABLE) {
        ended_ = connection_->StreamFailure(status, absl::InfiniteDuration(), "");
      }
    }
  }

  void Cancel() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    cancelled_ = true;
    changed_.notify_all();
    if (context_ != nullptr) context_->TryCancel();
  }

 private:
  // After a pause, if it is not the first time or the server did answer last time.
  bool Open() {
    std::unique_lock<std::mutex> lock(mutex_);
    if (pause_ > absl::ZeroDuration()) {
      changed_.wait_for(lock, absl::ToChronoNanoseconds(pause_), [this] { return cancelled_; });
    }
    if (cancelled_) {
      ended_ = absl::CancelledError("the watch was cancelled");
      return false;
    }
    pause_ = backoff_ * (0.5 + connection_->runtime().Uniform() / 2);
    backoff_ = std::min(backoff_ * policy_.multiplier, policy_.max_backoff);
    request_.clear_known();
    for (const auto& [name, known] : known_) {
      v1::KnownLayer* const added = request_.add_known();
      added->set_name(known.name);
      added->set_uid(known.uid);
      added->set_version(known.version);
    }
    context_ = std::make_unique<grpc::ClientContext>();
    reader_ = connection_->stub().layers()->WatchLayers(context_.get(), request_);
    return true;
  }

  grpc::Status Close() {
    if (reader_ == nullptr) return grpc::Status::OK;
    grpc::Status status = reader_->Finish();
    reader_.reset();
    const std::lock_guard<std::mutex> lock(mutex_);
    context_.reset();
    return status;
  }

  LayerChange Take(const v1::WatchLayersResponse& response) {
    // The server is well.
    pause_ = absl::ZeroDuration();
    backoff_ = policy_.initial_backoff;
    LayerChange change{.layer = FromProto(response.layer()), .deleted = response.deleted()};
    if (change.deleted) {
      known_.erase(change.layer.name);
    } else {
      known_[change.layer.name] = {change.layer.name, change.layer.uid, change.layer.version};
    }
    return change;
  }

  Connection* const connection_;
  const RetryPolicy policy_;
  v1::WatchLayersRequest request_;
  std::map<std::string, KnownLayer> known_;
  std::unique_ptr<grpc::ClientReader<v1::WatchLayersResponse>> reader_;
  absl::Duration pause_ = absl::ZeroDuration();
  absl::Duration backoff_;
  absl::Status ended_;

  std::mutex mutex_;
  std::condition_variable changed_;
  // Both guarded by mutex_.
  bool cancelled_ = false;
  std::unique_ptr<grpc::ClientContext> context_;
};

}  // namespace

std::unique_ptr<LayerWatch> OpenWatch(Connection* connection, const WatchOptions& options) {
  return std::make_unique<Watch>(connection, options);
}

}  // namespace normd::internal
