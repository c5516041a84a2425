#ifndef NORMD_SERVER_SERVICE_TENSOR_BUFFERS_H_
#define NORMD_SERVER_SERVICE_TENSOR_BUFFERS_H_

#include <cstddef>
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

// The status of what needs `bytes` that are not there, with a hint when to come back.
absl::Status NoMemory(const TensorMemory& memory, absl::string_view what, std::size_t bytes);

// Where the bytes of a request's tensor are to be found, and what is needed to load them.
struct TensorSource {
  const TensorMemory& memory;
  absl::string_view layer_name;
  const wire::MessageSlices& slices;
  wire::Payload payload;
  // What a buffer may use up first.
  wire::BufferPool::Reservation* reserved;
  // That gather.
  int threads;
};

// Bytes of a tensor, as far as its message says.
int64_t TensorBytes(const v1::Tensor& tensor, const wire::Payload& payload);
// What a buffer for it counts in the budget.
int64_t BufferBytes(int64_t tensor_bytes);

// A tensor of a request, where the kernels can read it. Its bytes arrive in slices at any alignment and are gathered
// once into a pooled buffer, or stand in shared memory. Move-only.
class TensorInput {
 public:
  // `present` and `tensor`: as they stand in the message. INVALID_ARGUMENT: the tensor is missing or in two places, or
  // ToTensorView's. RESOURCE_EXHAUSTED with a hint when to come back: no memory. Also the statuses of
  // SharedMemoryRange.
  static absl::StatusOr<TensorInput> Load(const TensorSource& source, absl::string_view what, bool present,
                                          const v1::Tensor& tensor);
  // The same, but a tensor in the message is not yet gathered: view() has its size and the place where it belongs.
  static absl::StatusOr<TensorInput> Prepare(const TensorSource& source, absl::string_view what, bool present,
                                             const v1::Tensor& tensor);

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
  static absl::StatusOr<TensorOutput> Like(const TensorSource& source, const TensorInput& input);
  // The input's own memory: what is written replaces what is read. REQUIRES: !input->in_region().
  static TensorOutput InPlaceOf(TensorInput* input);
  // Shared memory, for a result like the first of `inputs`. INVALID_ARGUMENT: it overlaps one of them. Also the
  // statuses of SharedMemoryRange.
  static absl::StatusOr<TensorOutput> InRegion(const TensorSource& source, const v1::SharedMemoryRange& range,
                                               absl::Span<const TensorInput* const> inputs);

  char* data() const { return region_.has_value() ? region_->data() : buffer_.data(); }

  // DATA_LOSS: the client may not find what was written.
  absl::Status CheckNotLost() const { return region_.has_value() ? region_->CheckNotLost() : absl::OkStatus(); }

  // Writes the tensor as field `number` of a message. Once.
  void Write(std::uint32_t number, wire::MessageWriter* writer) &&;

  // The tensor's message without the elements.
  const v1::Tensor& header() const { return header_; }
  bool in_region() const { return region_.has_value(); }
  // The elements; none if they are in a region. Once.
  grpc::Slice TakeElements() &&;

 private:
  explicit TensorOutput(const TensorInput& input);

  v1::Tensor header_;
  wire::Buffer buffer_;
  std::optional<shm::RegionUse> region_;
};

}  // namespace normd::service

#endif  // NORMD_SERVER_SERVICE_TENSOR_BUFFERS_H_
