#ifndef NORMD_CLIENT_CPP_SRC_CHUNKED_CALL_H_
#define NORMD_CLIENT_CPP_SRC_CHUNKED_CALL_H_

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "client/cpp/src/connection.h"
#include "normd/client.h"
#include "normd/stream.h"

namespace normd::internal {

// Client::InferChunked and TrainStepChunked over `connection`. They block; sources and sinks run on the caller's
// thread, while gRPC's threads send and receive the chunks before and behind.
absl::StatusOr<InferResult> InferChunked(Connection* connection, absl::string_view layer, const ChunkedTensor& x,
                                         const ChunkSource& source, const ChunkSink& sink, const InferOptions& options);
absl::StatusOr<TrainStepResult> TrainStepChunked(Connection* connection, absl::string_view layer,
                                                 const ChunkedTensor& x, const ChunkSource& source,
                                                 const ChunkSink& sink, const TrainStepOptions& options);

}  // namespace normd::internal

#endif  // NORMD_CLIENT_CPP_SRC_CHUNKED_CALL_H_
