#ifndef NORMD_CLIENT_CLI_TENSOR_ARGUMENT_H_
#define NORMD_CLIENT_CLI_TENSOR_ARGUMENT_H_

#include <CLI/CLI.hpp>
#include <string>

#include "absl/status/status.h"
#include "client/cli/context.h"
#include "normd/tensor.h"

namespace normd::cli {

// The arguments INPUT and [OUTPUT] of the verbs that work on a tensor, and --layout. Must outlive the app.
class TensorArgument {
 public:
  void Add(CLI::App* verb);

  bool has_output() const { return !output_.empty(); }
  const std::string& output() const { return output_; }

  // Reads INPUT; view() is valid afterwards, as long as this lives. The status names the file.
  absl::Status Read();
  const TensorView& view() const { return view_; }
  // Writes OUTPUT if there is one.
  absl::Status Write(const Tensor& tensor) const;
  // Tells `context` whether stdout takes the tensor.
  void Claim(Context* context) const { context->stdout_is_data = output_ == "-"; }

 private:
  std::string input_;
  std::string output_;
  std::string layout_ = "channels_first";
  std::string file_;
  TensorView view_;
};

}  // namespace normd::cli

#endif  // NORMD_CLIENT_CLI_TENSOR_ARGUMENT_H_
