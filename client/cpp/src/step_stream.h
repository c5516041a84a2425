#ifndef NORMD_CLIENT_CPP_SRC_STEP_STREAM_H_
#define NORMD_CLIENT_CPP_SRC_STEP_STREAM_H_

#include <memory>

#include "client/cpp/src/connection.h"
#include "normd/stream.h"

namespace normd::internal {

// A stream over `connection`, which must outlive it.
std::unique_ptr<StepStream> OpenStepStream(Connection* connection, const StepStreamOptions& options);

}  // namespace normd::internal

#endif  // NORMD_CLIENT_CPP_SRC_STEP_STREAM_H_
