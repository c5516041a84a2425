#ifndef NORMD_CLIENT_CPP_TESTING_SRC_FAKE_LAYERS_H_
#define NORMD_CLIENT_CPP_TESTING_SRC_FAKE_LAYERS_H_

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cpp/testing/src/fake_optimizer.h"
#include "normd/v1/layer_service.pb.h"
#include "normd/v1/normalization_service.pb.h"

namespace normd::testing {

// A layer with everything that it was. Messages of the API serve as values here: there is nothing else to keep.
struct FakeLayer {
  // With its state.
  v1::Layer now;
  std::map<int64_t, v1::Layer> versions;
  std::map<std::string, int64_t> sequences;
  FakeOptimizer optimizer;
};

// The layers of a FakeServer. Each method fills in `response`, or says why not, as the one of the API that has such a
// request. Thread-safe: one call at a time.
class FakeLayers {
 public:
  absl::Status Handle(const v1::CreateLayerRequest& request, v1::CreateLayerResponse* response);
  absl::Status Handle(const v1::GetLayerRequest& request, v1::GetLayerResponse* response);
  absl::Status Handle(const v1::ListLayersRequest& request, v1::ListLayersResponse* response);
  absl::Status Handle(const v1::UpdateLayerRequest& request, v1::UpdateLayerResponse* response);
  absl::Status Handle(const v1::DeleteLayerRequest& request, v1::DeleteLayerResponse* response);
  absl::Status Handle(const v1::ResetStatisticsRequest& request, v1::ResetStatisticsResponse* response);
  absl::Status Handle(const v1::SetStateRequest& request, v1::SetStateResponse* response);
  absl::Status Handle(const v1::TrainStepRequest& request, v1::TrainStepResponse* response);
  absl::Status Handle(const v1::InferRequest& request, v1::InferResponse* response);
  absl::Status Handle(const v1::DenormalizeRequest& request, v1::DenormalizeResponse* response);
  absl::Status Handle(const v1::BackwardRequest& request, v1::BackwardResponse* response);
  absl::Status Handle(const v1::MergeMomentsRequest& request, v1::MergeMomentsResponse* response);

 private:
  absl::StatusOr<FakeLayer*> Find(const std::string& name);
  // 0: the newest.
  absl::StatusOr<const v1::Layer*> FindVersion(const std::string& name, int64_t version);
  // FAILED_PRECONDITION: it is frozen.
  absl::StatusOr<FakeLayer*> FindToChange(const std::string& name);

  // Runs `change`, unless a call with this request's request_id has succeeded: then answers as that did.
  template <typename Request, typename Response, typename Change>
  absl::Status Once(const Request& request, Response* response, const Change& change);

  std::mutex mutex_;
  std::map<std::string, FakeLayer> layers_;
  int64_t num_created_ = 0;
  // By request_id.
  struct Answer {
    std::string request;
    std::string response;
  };
  std::map<std::string, Answer> answers_;
};

// Makes `layer`'s changes its next version.
void Commit(FakeLayer* layer);

}  // namespace normd::testing

#endif  // NORMD_CLIENT_CPP_TESTING_SRC_FAKE_LAYERS_H_
