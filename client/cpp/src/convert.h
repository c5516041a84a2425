#ifndef NORMD_CLIENT_CPP_SRC_CONVERT_H_
#define NORMD_CLIENT_CPP_SRC_CONVERT_H_

#include <memory>
#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "normd/client.h"
#include "normd/layer.h"
#include "normd/moments.h"
#include "normd/snapshot.h"
#include "normd/tensor.h"
#include "normd/v1/layer_service.pb.h"
#include "normd/v1/normalization_service.pb.h"
#include "normd/v1/snapshot_service.pb.h"
#include "proto/wire/buffer_pool.h"
#include "proto/wire/message_slices.h"
#include "proto/wire/split_message.h"

// Values of the SDK <-> API messages. What takes a message by pointer moves its bytes out and leaves it unspecified.
namespace normd::internal {

v1::LayerConfig ToProto(const LayerConfig& config);
v1::LayerState ToProto(const LayerState& state);
v1::Sgd ToProto(const Sgd& sgd);
v1::Adam ToProto(const Adam& adam);
v1::Moments ToProto(const Moments& moments);
v1::RestoreSelection ToProto(const RestoreSelection& selection);

// Absent: a type that this library does not know.
std::optional<DType> FromProto(v1::DataType dtype);
LayerConfig FromProto(const v1::LayerConfig& config);
LayerState FromProto(const v1::LayerState& state);
Layer FromProto(const v1::Layer& layer);
Snapshot FromProto(const v1::Snapshot& snapshot);

// INVALID_ARGUMENT, naming the layer and `what` (x, dy, y): a negative extent, extents whose product overflows, or data
// of another length than the shape asks for. RESOURCE_EXHAUSTED: more than one message can carry.
absl::Status CheckTensor(absl::string_view layer, absl::string_view what, const TensorView& tensor);
// RESOURCE_EXHAUSTED: the two do not fit one message together.
absl::Status CheckTogether(absl::string_view layer, const TensorView& x, const TensorView& dy);
// All but the elements. REQUIRES CheckTensor to be OK.
void DescribeTensor(const TensorView& tensor, v1::Tensor* out);

// Where an answer's elements stand and where they go.
struct Elements {
  const wire::MessageSlices* message = nullptr;
  wire::Payload payload;
  // Empty: to a Tensor, with memory of `pool` or, when that has no room, of the system.
  absl::Span<char> into;
  wire::BufferPool* pool = nullptr;
  // Not in the message but here, in memory that `owner` keeps, if this is not empty. They stay there unless `into` is
  // elsewhere.
  absl::Span<char> shared = {};
  std::shared_ptr<char> owner = {};
};
// With `into` the tensor has no elements. INTERNAL: the server's tensor does not fit itself, or `into`; nothing was
// written then. RESOURCE_EXHAUSTED: no memory.
absl::StatusOr<Tensor> TakeTensor(const v1::Tensor& tensor, const Elements& elements);

absl::StatusOr<TrainStepResult> Take(v1::TrainStepResponse* response, const Elements& y);
absl::StatusOr<InferResult> Take(v1::InferResponse* response, const Elements& y);
absl::StatusOr<InferResult> Take(v1::DenormalizeResponse* response, const Elements& x);
absl::StatusOr<BackwardResult> Take(v1::BackwardResponse* response, const Elements& dx);
MergeMomentsResult Take(v1::MergeMomentsResponse* response);

}  // namespace normd::internal

#endif  // NORMD_CLIENT_CPP_SRC_CONVERT_H_
