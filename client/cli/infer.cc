#include <memory>

#include "client/cli/tensor_argument.h"
#include "client/cli/verbs.h"

namespace normd::cli {

void AddInfer(CLI::App* parent, Context* context) {
  struct Arguments {
    TensorArgument tensor;
    InferOptions options;
  };
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* verb = parent->add_subcommand("infer", "Normalize a tensor with the running statistics");
  AddLayerName(verb, context);
  arguments->tensor.Add(verb);
  verb->add_option("--version", arguments->options.version, "Only if the layer's version is this one");
  verb->callback([arguments, context] {
    arguments->tensor.Claim(context);
    context->action = [arguments, context]() -> absl::Status {
      if (absl::Status status = arguments->tensor.Read(); !status.ok()) return status;
      const absl::StatusOr<InferResult> result =
          context->client().Infer(context->layer, arguments->tensor.view(), arguments->options);
      if (!result.ok()) return result.status();
      if (absl::Status status = arguments->tensor.Write(result->output); !status.ok()) return status;
      context->printer().PrintInference(context->layer, "y", *result, {arguments->tensor.output()});
      return absl::OkStatus();
    };
  });
}

}  // namespace normd::cli
