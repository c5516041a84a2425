#include "client/cli/tensor_argument.h"

#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "client/cli/names.h"
#include "client/cli/npy.h"
#include "client/cli/verbs.h"

namespace normd::cli {

void TensorArgument::Add(CLI::App* verb) {
  verb->add_option("input", input_, ".npy file to read: float16, float32 or float64; - for stdin")
      ->required()
      ->type_name(kFileType);
  verb->add_option("output", output_, ".npy file to write; - for stdout")->type_name(kFileType);
  verb->add_option("--layout", layout_, "Where the channels are: dimension 1 or the last one")
      ->check(CLI::IsMember({"channels_first", "channels_last"}))
      ->capture_default_str();
}

absl::Status TensorArgument::Read() {
  absl::StatusOr<std::string> file = ReadFile(input_);
  if (!file.ok()) return file.status();
  file_ = *std::move(file);
  absl::StatusOr<TensorView> view = ParseNpy(file_);
  if (!view.ok()) {
    return absl::Status(view.status().code(),
                        absl::StrCat(input_ == "-" ? "stdin" : input_, ": ", view.status().message()));
  }
  view_ = *std::move(view);
  view_.layout = LayoutNames().at(layout_);
  return absl::OkStatus();
}

absl::Status TensorArgument::Write(const Tensor& tensor) const {
  return has_output() ? WriteNpy(tensor, output_) : absl::OkStatus();
}

}  // namespace normd::cli
