#ifndef NORMD_SERVER_SERVICE_NORMALIZATION_SERVICE_H_
#define NORMD_SERVER_SERVICE_NORMALIZATION_SERVICE_H_

#include <grpcpp/support/byte_buffer.h>

#include "normd/v1/normalization_service.grpc.pb.h"
#include "server/service/tensor_call.h"
#include "server/service/tensor_executor.h"
#include "server/service/tensor_stream.h"
#include "server/service/unary_call.h"

namespace normd::service {

// The methods of normd.v1.NormalizationService that carry tensors, registered raw: messages are read from and written
// to gRPC's slices (proto/wire), so that tensors are not copied into and out of protobuf messages.
template <typename Base>
using RawUnary = v1::NormalizationService::WithRawCallbackMethod_TrainStep<
    v1::NormalizationService::WithRawCallbackMethod_Infer<v1::NormalizationService::WithRawCallbackMethod_Denormalize<
        v1::NormalizationService::WithRawCallbackMethod_Backward<Base>>>>;
template <typename Base>
using RawStreams =
    v1::NormalizationService::WithRawCallbackMethod_Steps<v1::NormalizationService::WithRawCallbackMethod_InferStream<
        v1::NormalizationService::WithRawCallbackMethod_TrainStepStream<Base>>>;

// normd.v1.NormalizationService over a registry. RESOURCE_EXHAUSTED with a hint when to come back: there is no memory
// for the call, or too many wait for the compute thread.
class NormalizationServiceImpl final
    : public RawUnary<
          RawStreams<v1::NormalizationService::WithCallbackMethod_MergeMoments<v1::NormalizationService::Service>>> {
 public:
  using RawStream = grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>;

  // All outlive the service. `regions` is null if shared memory is off.
  NormalizationServiceImpl(const registry::LayerRegistry* registry, const shm::RegionRegistry* regions,
                           wire::BufferPool* buffers, TensorExecutor* executor, CallObserver* observer)
      : context_{{registry, {buffers, regions, executor}}, executor, observer} {}

  // Ends the streams that wait for more calls, once what they have begun is answered.
  void StopStreams() { open_streams_.Stop(); }

  grpc::ServerUnaryReactor* TrainStep(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                      grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* Infer(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                  grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* Denormalize(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                        grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* Backward(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override;
  // Short: runs in the thread that received it.
  grpc::ServerUnaryReactor* MergeMoments(grpc::CallbackServerContext* context, const v1::MergeMomentsRequest* request,
                                         v1::MergeMomentsResponse* response) override;
  RawStream* Steps(grpc::CallbackServerContext* context) override;
  RawStream* InferStream(grpc::CallbackServerContext* context) override;
  RawStream* TrainStepStream(grpc::CallbackServerContext* context) override;

 private:
  // A unary call whose request is of type Request.
  template <typename Request>
  grpc::ServerUnaryReactor* Handle(grpc::CallbackServerContext* context, absl::string_view method,
                                   absl::Span<const wire::PayloadField> schema, const grpc::ByteBuffer* request,
                                   grpc::ByteBuffer* response);

  const TensorStreamContext context_;
  OpenStreams open_streams_;
};

}  // namespace normd::service

#endif  // NORMD_SERVER_SERVICE_NORMALIZATION_SERVICE_H_
