#ifndef NORMD_SERVER_SERVICE_TENSOR_BUFFERS_H_
#define NORMD_SERVER_SERVICE_TENSOR_BUFFERS_H_

#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "normd/v1/tensor.pb.h"
#include "proto/wire/buffer_pool.h"
#include "proto/wire/message_slices.h"
#include "proto/wire/message_writer.h"
#include "proto/wire/split_message.h"
#include "server/layer/tensor.h"
#include "server/service/tensor_executor.h"
#include "server/shm/region_registry.h"

namespace normd::service {

// What calls on tensors get their memory from. All outlive the calls.
struct TensorMemory {
  wire::BufferPool* buffers;
  // Null: shared memory is off.
  const shm::RegionRegistry* regions;
  const TensorExecutor* executor;
};

// A tensor of a request, where the kernels can read it. Its bytes arrive in slices at any alignment and are gathered
// once into a pooled buffer, or stand in shared memory. Move-only.
class TensorInput {
 public:
  // `present`, `tensor` and `payload`: as they stand in the message. INVALID_ARGUMENT: the layer's name is none, the
  // tensor is missing or in two places, or ToTensorView's. RESOURCE_EXHAUSTED with a hint when to come back: no memory.
  // Also the statuses of SharedMemoryRange.
  static absl::StatusOr<TensorInput> Load(const TensorMemory& memory, absl::string_view layer_name,
                                          absl::string_view what, bool present, const v1::Tensor& tensor,
                                          const wire::MessageSlices& slices, const wire::Payload& payload);

  const layer::TensorView& view() const { return view_; }
  int64_t size_bytes() const { return static_cast<int64_t>(view_.data.size()); }
  bool in_region() const { return region_.has_value(); }

  // DATA_LOSS: what was read may not be what the client wrote.
  absl::Status CheckNotLost() const { return region_.has_value() ? region_->CheckNotLost() : absl::OkStatus(); }

 private:
  friend class TensorOutput;

  layer::TensorView view_;
  wire::Buffer buffer_;
  std::optional<shm::RegionUse> region_;
};

// Where a result goes: the size, element type and shape of an input. Move-only.
class TensorOutput {
 public:
  // Memory of its own. RESOURCE_EXHAUSTED with a hint when to come back: no memory.
  static absl::StatusOr<TensorOutput> Like(const TensorMemory& memory, const TensorInput& input);
  // The input's own memory: what is written replaces what is read. REQUIRES: !input->in_region().
  static TensorOutput InPlaceOf(TensorInput* input);
  // Shared memory, for a result like the first of `inputs`. INVALID_ARGUMENT: it overlaps one of them. Also the
  // statuses of SharedMemoryRange.
  static absl::StatusOr<TensorOutput> InRegion(const TensorMemory& memory, absl::string_view layer_name,
                                               const v1::SharedMemoryRange& range,
                                               absl::Span<const TensorInput* const> inputs);

  char* data() const { return region_.has_value() ? region_->data() : buffer_.data(); }
  bool in_region() const { return region_.has_value(); }

  // DATA_LOSS: the client may not find what was written.
  absl::Status CheckNotLost() const { return region_.has_value() ? region_->CheckNotLost() : absl::OkStatus(); }

  // Writes the tensor as field `number` of a message. Once.
  void Write(std::uint32_t number, wire::MessageWriter* writer) &&;

 private:
  explicit TensorOutput(const TensorInput& input);

  v1::Tensor header_;
  wire::Buffer buffer_;
  std::optional<shm::RegionUse> region_;
};

}  // namespace normd::service

#endif  // NORMD_SERVER_SERVICE_TENSOR_BUFFERS_H_
