#include <memory>

#include "client/cli/tensor_argument.h"
#include "client/cli/verbs.h"

namespace normd::cli {
namespace {

using Call = absl::StatusOr<InferResult> (Client::*)(absl::string_view, const TensorView&, const InferOptions&);

// A verb that sends a tensor through `call` and writes what comes back, which the printer calls `output`.
void AddVerb(CLI::App* parent, Context* context, const char* name, const char* help, Call call, const char* output) {
  struct Arguments {
    TensorArgument tensor;
    InferOptions options;
  };
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* verb = parent->add_subcommand(name, help);
  AddLayerName(verb, context);
  arguments->tensor.Add(verb);
  verb->add_option("--version", arguments->options.version, "Only if the layer's version is this one");
  verb->callback([arguments, context, call, output] {
    arguments->tensor.Claim(context);
    context->action = [arguments, context, call, output]() -> absl::Status {
      if (absl::Status status = arguments->tensor.Read(); !status.ok()) return status;
      const absl::StatusOr<InferResult> result =
          (context->client().*call)(context->layer, arguments->tensor.view(), arguments->options);
      if (!result.ok()) return result.status();
      if (absl::Status status = arguments->tensor.Write(result->output); !status.ok()) return status;
      context->printer().PrintInference(context->layer, output, *result, {arguments->tensor.output()});
      return absl::OkStatus();
    };
  });
}

}  // namespace

void AddInfer(CLI::App* parent, Context* context) {
  AddVerb(parent, context, "infer", "Normalize a tensor with the running statistics", &Client::Infer, "y");
}

void AddDenormalize(CLI::App* parent, Context* context) {
  AddVerb(parent, context, "denormalize", "The inverse of infer: the values before normalization", &Client::Denormalize,
          "x");
}

}  // namespace normd::cli
