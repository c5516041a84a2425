#ifndef NORMD_SERVER_SERVICE_STREAMS_H_
#define NORMD_SERVER_SERVICE_STREAMS_H_

#include "server/service/open_inference_regions.h"
#include "server/service/tensor_stream.h"

// The streams of tensors. Each makes a stream that owns itself; `streams` outlives it.
namespace normd::service {

// Many calls, one after the other.
TensorStream* NewStepsStream(grpc::CallbackServerContext* context, const TensorStreamContext& streams,
                             OpenStreams* open);
// One tensor in chunks, normalized as they come.
TensorStream* NewInferStream(grpc::CallbackServerContext* context, const TensorStreamContext& streams);
// One batch in chunks: first for its statistics, then, if y is wanted, once more to be normalized with them.
TensorStream* NewTrainStepStream(grpc::CallbackServerContext* context, const TensorStreamContext& streams);
// Many calls of the Open Inference Protocol, one after the other. `regions` outlives the stream.
TensorStream* NewModelInferStream(grpc::CallbackServerContext* context, const TensorStreamContext& streams,
                                  const OpenInferenceRegions& regions, OpenStreams* open);

}  // namespace normd::service

#endif  // NORMD_SERVER_SERVICE_STREAMS_H_
