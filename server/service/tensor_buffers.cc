#include "server/service/tensor_buffers.h"

#include <cstddef>
#include <cstdint>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "server/kernels/parallel.h"
#include "server/layer/layer_error.h"
#include "server/service/shared_memory_service.h"
#include "server/service/tensor_conversion.h"

namespace normd::service {
namespace {

absl::StatusOr<wire::Buffer> Allocate(const TensorSource& source, std::size_t size) {
  wire::Buffer buffer = source.memory.buffers->Allocate(size, source.reserved);
  if (buffer) return buffer;
  return NoMemory(source.memory, absl::StrCat(layer::LayerPrefix(source.layer_name), "a tensor"), size);
}

// A range of `size` bytes.
absl::StatusOr<shm::RegionUse> UseRegion(const TensorSource& source, const v1::SharedMemoryRange& range, int64_t size,
                                         layer::DType dtype) {
  if (source.memory.regions == nullptr) return SharedMemoryIsOff();
  absl::StatusOr<shm::RegionUse> use =
      source.memory.regions->Use(range.region(), range.offset(), size, layer::ElementBytes(dtype));
  if (!use.ok()) return layer::ForLayer(source.layer_name, use.status());
  return use;
}

// Copies a payload with a team.
struct Gather {
  const TensorSource& source;
  char* out;

  void operator()(int rank, int size) const {
    const kernels::Part part(static_cast<int64_t>(source.payload.size), rank, size);
    source.slices.Copy(source.payload.begin + static_cast<std::size_t>(part.begin),
                       static_cast<std::size_t>(part.end - part.begin), out + part.begin);
  }
};

}  // namespace

absl::Status NoMemory(const TensorMemory& memory, absl::string_view what, std::size_t bytes) {
  return memory.executor->Overloaded(
      absl::StrCat("no memory for ", what, " of ", bytes, " bytes: ", memory.buffers->in_use_bytes(), " of ",
                   memory.buffers->budget_bytes(), " bytes (--memory-budget) are in use"));
}

int64_t TensorBytes(const v1::Tensor& tensor, const wire::Payload& payload) {
  if (!tensor.has_shared_memory()) return static_cast<int64_t>(payload.size);
  absl::StatusOr<layer::TensorView> view = ToTensorView("", "", tensor, {});
  if (!view.ok()) return 0;
  absl::StatusOr<layer::NcsShape> ncs = layer::ToNcs(view->shape, view->layout, view->dtype);
  return ncs.ok() ? ncs->size() * layer::ElementBytes(view->dtype) : 0;
}

int64_t BufferBytes(int64_t tensor_bytes) {
  return static_cast<int64_t>(wire::BufferPool::CapacityFor(static_cast<std::size_t>(tensor_bytes)));
}

absl::StatusOr<TensorInput> TensorInput::Prepare(const TensorSource& source, absl::string_view what, bool present,
                                                 const v1::Tensor& tensor) {
  if (!present) {
    return absl::InvalidArgumentError(absl::StrCat(layer::LayerPrefix(source.layer_name), what, " is missing"));
  }
  TensorInput input;
  absl::StatusOr<layer::TensorView> view = ToTensorView(source.layer_name, what, tensor, {});
  if (!view.ok()) return view.status();
  input.view_ = *std::move(view);
  const std::size_t size = source.payload.size;
  if (!tensor.has_shared_memory()) {
    absl::StatusOr<wire::Buffer> buffer = Allocate(source, size);
    if (!buffer.ok()) return buffer.status();
    input.buffer_ = *std::move(buffer);
    input.view_.data = absl::MakeConstSpan(input.buffer_.data(), size);
    return input;
  }
  if (size > 0) {
    return absl::InvalidArgumentError(absl::StrCat(layer::LayerPrefix(source.layer_name), what, " has ", size,
                                                   " bytes of data and stands in shared memory, want one of them"));
  }
  absl::StatusOr<layer::NcsShape> ncs = layer::ToNcs(input.view_.shape, input.view_.layout, input.view_.dtype);
  if (!ncs.ok()) return layer::ForLayer(source.layer_name, ncs.status());
  const int64_t bytes = ncs->size() * layer::ElementBytes(input.view_.dtype);
  absl::StatusOr<shm::RegionUse> use = UseRegion(source, tensor.shared_memory(), bytes, input.view_.dtype);
  if (!use.ok()) return use.status();
  input.region_ = *std::move(use);
  input.view_.data = absl::MakeConstSpan(input.region_->data(), static_cast<std::size_t>(bytes));
  return input;
}

absl::StatusOr<TensorInput> TensorInput::Load(const TensorSource& source, absl::string_view what, bool present,
                                              const v1::Tensor& tensor) {
  absl::StatusOr<TensorInput> input = Prepare(source, what, present, tensor);
  if (!input.ok() || input->in_region()) return input;
  Gather team{source, input->buffer_.data()};
  kernels::RunTeam(source.threads, &team);
  return input;
}

TensorOutput::TensorOutput(const TensorInput& input) : header_(ToProto(input.view())) {}

absl::StatusOr<TensorOutput> TensorOutput::InRegion(const TensorSource& source, const v1::SharedMemoryRange& range,
                                                    absl::Span<const TensorInput* const> inputs) {
  const TensorInput& like = *inputs.front();
  TensorOutput output(like);
  absl::StatusOr<shm::RegionUse> use = UseRegion(source, range, like.size_bytes(), like.view().dtype);
  if (!use.ok()) return use.status();
  for (const TensorInput* input : inputs) {
    if (!input->in_region()) continue;
    absl::StatusOr<bool> same = shm::SameRange(*input->region_, *use);
    if (same.ok() && !*same) continue;
    return absl::InvalidArgumentError(absl::StrCat(layer::LayerPrefix(source.layer_name),
                                                   "the result's range in shared memory, ", like.size_bytes(),
                                                   " bytes from ", range.offset(), ", overlaps that of an input"));
  }
  *output.header_.mutable_shared_memory() = range;
  output.region_ = *std::move(use);
  return output;
}

absl::StatusOr<TensorOutput> TensorOutput::Like(const TensorSource& source, const TensorInput& input) {
  TensorOutput output(input);
  absl::StatusOr<wire::Buffer> buffer = Allocate(source, input.view().data.size());
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

grpc::Slice TensorOutput::TakeElements() && {
  return region_.has_value() ? grpc::Slice() : std::move(buffer_).ToSlice();
}

}  // namespace normd::service
