#include "server/service/tensor_buffers.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "server/layer/layer_error.h"
#include "server/layer/layer_name.h"
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

}  // namespace

absl::StatusOr<TensorInput> TensorInput::Load(const TensorMemory& memory, absl::string_view layer_name,
                                              absl::string_view what, bool present, const v1::Tensor& tensor,
                                              const wire::MessageSlices& slices, const wire::Payload& payload) {
  if (absl::Status status = layer::ValidateName(layer_name); !status.ok()) return status;
  if (!present) return absl::InvalidArgumentError(absl::StrCat(layer::LayerPrefix(layer_name), what, " is missing"));
  TensorInput input;
  absl::StatusOr<wire::Buffer> buffer = Allocate(memory, payload.size);
  if (!buffer.ok()) return buffer.status();
  input.buffer_ = *std::move(buffer);
  absl::StatusOr<layer::TensorView> view =
      ToTensorView(layer_name, what, tensor, absl::MakeConstSpan(input.buffer_.data(), payload.size));
  if (!view.ok()) return view.status();
  input.view_ = *std::move(view);
  slices.Copy(payload.begin, payload.size, input.buffer_.data());
  return input;
}

absl::StatusOr<TensorOutput> TensorOutput::Like(const TensorMemory& memory, const TensorInput& input) {
  TensorOutput output(ToProto(input.view()));
  absl::StatusOr<wire::Buffer> buffer = Allocate(memory, input.view().data.size());
  if (!buffer.ok()) return buffer.status();
  output.buffer_ = *std::move(buffer);
  return output;
}

TensorOutput TensorOutput::InPlaceOf(TensorInput* input) {
  TensorOutput output(ToProto(input->view()));
  output.buffer_ = std::move(input->buffer_);
  return output;
}

void TensorOutput::Write(std::uint32_t number, wire::MessageWriter* writer) && {
  writer->AppendPayload(number, header_, v1::Tensor::kDataFieldNumber, std::move(buffer_).ToSlice());
}

}  // namespace normd::service
