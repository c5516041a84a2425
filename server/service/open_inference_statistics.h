#ifndef NORMD_SERVER_SERVICE_OPEN_INFERENCE_STATISTICS_H_
#define NORMD_SERVER_SERVICE_OPEN_INFERENCE_STATISTICS_H_

#include <cstdint>
#include <map>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "inference/open_inference_service.pb.h"
#include "server/base/mutex.h"
#include "server/registry/layer_registry.h"
#include "server/service/unary_call.h"

namespace normd::service {

// What became of the calls of ModelInfer and ModelStreamInfer, by layer; it passes every call on. Thread-safe.
class OpenInferenceStatistics final : public CallObserver {
 public:
  // Both outlive this.
  OpenInferenceStatistics(const registry::LayerRegistry* registry, CallObserver* next)
      : CallObserver(next->access()), registry_(registry), next_(next) {}

  void OnCall(const CallRecord& record) override;
  void Began() override { next_->Began(); }
  void Ended() override { next_->Ended(); }

  // Of layer `name`; empty: of all that were asked and exist, and that `caller` may read. NOT_FOUND: no such layer.
  absl::StatusOr<::inference::ModelStatisticsResponse> Get(const std::string& name, const access::Caller& caller);

 private:
  struct Sum {
    uint64_t count = 0;
    absl::Duration time = absl::ZeroDuration();
  };
  struct Entry {
    Sum success;
    Sum fail;
    absl::Time last;
  };

  const registry::LayerRegistry* const registry_;
  CallObserver* const next_;
  base::Mutex mutex_;
  // Of layers that there were, at most so many as there may be at a time.
  std::map<std::string, Entry, std::less<>> entries_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace normd::service

#endif  // NORMD_SERVER_SERVICE_OPEN_INFERENCE_STATISTICS_H_
