#ifndef NORMD_SERVER_SERVICE_TENSOR_BUFFERS_H_
#define NORMD_SERVER_SERVICE_TENSOR_BUFFERS_H_

#include <cstdint>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "normd/v1/tensor.pb.h"
#include "proto/wire/buffer_pool.h"
#include "proto/wire/message_slices.h"
#include "proto/wire/message_writer.h"
#include "proto/wire/split_message.h"
#include "server/layer/tensor.h"
#include "server/service/tensor_executor.h"

namespace normd::service {

// What calls on tensors get their memory from. All outlive the calls.
struct TensorMemory {
  wire::BufferPool* buffers;
  const TensorExecutor* executor;
};

// A tensor of a request, where the kernels can read it: its bytes, which arrive in slices at any alignment, are
// gathered once into a pooled buffer. Move-only.
class TensorInput {
 public:
  // `present`, `tensor` and `payload`: as they stand in the message. INVALID_ARGUMENT: the layer's name is none, the
  // tensor is missing, or ToTensorView's. RESOURCE_EXHAUSTED with a hint when to come back: no memory.
  static absl::StatusOr<TensorInput> Load(const TensorMemory& memory, absl::string_view layer_name,
                                          absl::string_view what, bool present, const v1::Tensor& tensor,
                                          const wire::MessageSlices& slices, const wire::Payload& payload);

  const layer::TensorView& view() const { return view_; }
  int64_t size_bytes() const { return static_cast<int64_t>(view_.data.size()); }

 private:
  friend class TensorOutput;

  layer::TensorView view_;
  wire::Buffer buffer_;
};

// Where a result goes: the size, element type and shape of an input. Move-only.
class TensorOutput {
 public:
  // Memory of its own. RESOURCE_EXHAUSTED with a hint when to come back: no memory.
  static absl::StatusOr<TensorOutput> Like(const TensorMemory& memory, const TensorInput& input);
  // The input's own memory: what is written replaces what is read.
  static TensorOutput InPlaceOf(TensorInput* input);

  char* data() const { return buffer_.data(); }

  // Writes the tensor as field `number` of a message. Once.
  void Write(std::uint32_t number, wire::MessageWriter* writer) &&;

 private:
  explicit TensorOutput(v1::Tensor header) : header_(std::move(header)) {}

  v1::Tensor header_;
  wire::Buffer buffer_;
};

}  // namespace normd::service

#endif  // NORMD_SERVER_SERVICE_TENSOR_BUFFERS_H_
