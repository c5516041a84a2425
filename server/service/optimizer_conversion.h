#ifndef NORMD_SERVER_SERVICE_OPTIMIZER_CONVERSION_H_
#define NORMD_SERVER_SERVICE_OPTIMIZER_CONVERSION_H_

#include <optional>

#include "normd/v1/normalization_service.pb.h"
#include "server/registry/optimizer.h"

namespace normd::service {

// The optimizer of the request, with absent fields at the defaults that the message states. Values are checked later.
std::optional<registry::OptimizerStep> ToOptimizerStep(const v1::BackwardRequest& request);

}  // namespace normd::service

#endif  // NORMD_SERVER_SERVICE_OPTIMIZER_CONVERSION_H_
