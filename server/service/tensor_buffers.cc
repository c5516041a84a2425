#include "server/service/tensor_buffers.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "server/layer/layer_error.h"
#include "server/layer/layer_name.h"
#include "server/service/shared_memory_service.h"
#include "server/service/tensor_conversion.h"

namespace normd::service {
namespace {

absl::StatusOr<wire::Buffer> Allocate(const TensorMemory& memory, std::size_t size) {
  wire::Buffer buffer = memory.buffers->Allocate(size);
  if (buffer) return buffer;
  return memory.executor->Overloaded(
      absl::StrCat("no memory for a tensor of ", size, " bytes: ", memory.buffers->in_use_bytes(), " of ",
                   memory.buffers->budget_bytes(), " bytes (--memory-budget) are in use"));
}

// A range of `size` bytes for a tensor of this layer.
absl::StatusOr<shm::RegionUse> UseRegion(const TensorMemory& memory, absl::string_view layer_name,
                                         const v1::SharedMemoryRange& range, int64_t size, layer::DType dtype) {
  if (memory.regions == nullptr) return SharedMemoryIsOff();
  absl::StatusOr<shm::RegionUse> use =
      memory.regions->Use(range.region(), range.offset(), size, layer::ElementBytes(dtype));
  if (!use.ok()) return layer::ForLayer(layer_name, use.status());
  return use;
}

}  // namespace

absl::StatusOr<TensorInput> TensorInput::Load(const TensorMemory& memory, absl::string_view layer_name,
                                              absl::string_view what, bool present, const v1::Tensor& tensor,
                                              const wire::MessageSlices& slices, const wire::Payload& payload) {
  if (absl::Status status = layer::ValidateName(layer_name); !status.ok()) return status;
  if (!present) return absl::InvalidArgumentError(absl::StrCat(layer::LayerPrefix(layer_name), what, " is missing"));
  TensorInput input;
  absl::StatusOr<layer::TensorView> view = ToTensorView(layer_name, what, tensor, {});
  if (!view.ok()) return view.status();
  input.view_ = *std::move(view);
  if (tensor.has_shared_memory()) {
    if (payload.size > 0) {
      return absl::InvalidArgumentError(absl::StrCat(layer::LayerPrefix(layer_name), what, " has ", payload.size,
                                                     " bytes of data and stands in shared memory, want one of them"));
    }
    absl::StatusOr<layer::NcsShape> ncs = layer::ToNcs(input.view_.shape, input.view_.layout, input.view_.dtype);
    if (!ncs.ok()) return layer::ForLayer(layer_name, ncs.status());
    const int64_t size = ncs->size() * layer::ElementBytes(input.view_.dtype);
    absl::StatusOr<shm::RegionUse> use = UseRegion(memory, layer_name, tensor.shared_memory(), size, input.view_.dtype);
    if (!use.ok()) return use.status();
    input.region_ = *std::move(use);
    input.view_.data = absl::MakeConstSpan(input.region_->data(), static_cast<std::size_t>(size));
    return input;
  }
  absl::StatusOr<wire::Buffer> buffer = Allocate(memory, payload.size);
  if (!buffer.ok()) return buffer.status();
  input.buffer_ = *std::move(buffer);
  slices.Copy(payload.begin, payload.size, input.buffer_.data());
  input.view_.data = absl::MakeConstSpan(input.buffer_.data(), payload.size);
  return input;
}

TensorOutput::TensorOutput(const TensorInput& input) : header_(ToProto(input.view())) {}

absl::StatusOr<TensorOutput> TensorOutput::InRegion(const TensorMemory& memory, absl::string_view layer_name,
                                                    const v1::SharedMemoryRange& range,
                                                    absl::Span<const TensorInput* const> inputs) {
  const TensorInput& like = *inputs.front();
  TensorOutput output(like);
  absl::StatusOr<shm::RegionUse> use = UseRegion(memory, layer_name, range, like.size_bytes(), like.view().dtype);
  if (!use.ok()) return use.status();
  for (const TensorInput* input : inputs) {
    if (!input->in_region()) continue;
    absl::StatusOr<bool> same = shm::SameRange(*input->region_, *use);
    if (same.ok() && !*same) continue;
    return absl::InvalidArgumentError(absl::StrCat(layer::LayerPrefix(layer_name),
                                                   "the result's range in shared memory, ", like.size_bytes(),
                                                   " bytes from ", range.offset(), ", overlaps that of an input"));
  }
  *output.header_.mutable_shared_memory() = range;
  output.region_ = *std::move(use);
  return output;
}

absl::StatusOr<TensorOutput> TensorOutput::Like(const TensorMemory& memory, const TensorInput& input) {
  TensorOutput output(input);
  absl::StatusOr<wire::Buffer> buffer = Allocate(memory, input.view().data.size());
  if (!buffer.ok()) return buffer.status();
  output.buffer_ = *std::move(buffer);
  return output;
}

TensorOutput TensorOutput::InPlaceOf(TensorInput* input) {
  TensorOutput output(*input);
  output.buffer_ = std::move(input->buffer_);
  return output;
}

void TensorOutput::Write(std::uint32_t number, wire::MessageWriter* writer) && {
  if (region_.has_value()) {
    writer->AppendMessage(number, header_);
    return;
  }
  writer->AppendPayload(number, header_, v1::Tensor::kDataFieldNumber, std::move(buffer_).ToSlice());
}

}  // namespace normd::service
