#ifndef NORMD_SERVER_SERVICE_TRAINING_CONVERSION_H_
#define NORMD_SERVER_SERVICE_TRAINING_CONVERSION_H_

#include "normd/v1/normalization_service.pb.h"
#include "server/registry/merge_moments.h"
#include "server/registry/training.h"

namespace normd::service {

// All but x.
registry::TrainStepInput ToTrainStepInput(const v1::TrainStepRequest& request);

// All but y.
v1::TrainStepResponse ToProto(const registry::TrainStepResult& result);

registry::MergeMomentsInput ToMergeMomentsInput(const v1::MergeMomentsRequest& request);

v1::MergeMomentsResponse ToProto(const registry::MergeMomentsResult& result);

}  // namespace normd::service

#endif  // NORMD_SERVER_SERVICE_TRAINING_CONVERSION_H_
