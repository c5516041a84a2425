#ifndef NORMD_CLIENT_CPP_TESTING_SRC_FAKE_STEPS_H_
#define NORMD_CLIENT_CPP_TESTING_SRC_FAKE_STEPS_H_

#include "absl/status/status.h"
#include "client/cpp/testing/src/fake_layers.h"
#include "normd/v1/normalization_service.pb.h"
#include "normd/v1/resources.pb.h"

// NormalizationService on a layer that was found, with the kernels of the SDK. Statuses are those of the API.
namespace normd::testing {

absl::Status TrainStep(const v1::TrainStepRequest& request, FakeLayer* layer, v1::TrainStepResponse* response);
absl::Status Infer(const v1::InferRequest& request, const v1::Layer& layer, v1::InferResponse* response);
absl::Status Denormalize(const v1::DenormalizeRequest& request, const v1::Layer& layer,
                         v1::DenormalizeResponse* response);
// Gradients at `version`; an optimizer's step is taken on `layer`.
absl::Status Backward(const v1::BackwardRequest& request, const v1::Layer& version, FakeLayer* layer,
                      v1::BackwardResponse* response);
absl::Status MergeMoments(const v1::MergeMomentsRequest& request, FakeLayer* layer, v1::MergeMomentsResponse* response);

// Fills in state->inv_std.
void SetInvStd(const v1::LayerConfig& config, v1::LayerState* state);

}  // namespace normd::testing

#endif  // NORMD_CLIENT_CPP_TESTING_SRC_FAKE_STEPS_H_
