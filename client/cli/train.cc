#include <memory>
#include <utility>
#include <vector>

#include "client/cli/npy.h"
#include "client/cli/tensor_argument.h"
#include "client/cli/verbs.h"

namespace normd::cli {
namespace {

struct Arguments {
  TensorArgument tensor;
  std::string gamma;
  std::string beta;
  TrainStepOptions options;
};

absl::Status Run(Arguments* arguments, Context* context) {
  if (absl::Status status = arguments->tensor.Read(); !status.ok()) return status;
  const std::pair<const std::string*, std::vector<double>*> lists[] = {{&arguments->gamma, &arguments->options.gamma},
                                                                       {&arguments->beta, &arguments->options.beta}};
  for (const auto& [text, values] : lists) {
    if (text->empty()) continue;
    absl::StatusOr<std::vector<double>> numbers = ReadNumbers(*text);
    if (!numbers.ok()) return numbers.status();
    *values = *std::move(numbers);
  }
  // Nobody would see y.
  arguments->options.omit_output = !arguments->tensor.has_output();
  const absl::StatusOr<TrainStepResult> result =
      context->client().TrainStep(context->layer, arguments->tensor.view(), arguments->options);
  if (!result.ok()) return result.status();
  if (absl::Status status = arguments->tensor.Write(result->y); !status.ok()) return status;
  context->printer().PrintTrainStep(context->layer, *result, {arguments->tensor.output()});
  return absl::OkStatus();
}

}  // namespace

void AddTrain(CLI::App* parent, Context* context) {
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* verb = parent->add_subcommand("train", "Normalize a batch and fold its statistics into the layer");
  AddLayerName(verb, context);
  arguments->tensor.Add(verb);
  CLI::Option* gamma =
      verb->add_option("--gamma", arguments->gamma, "New gamma: .npy file or list")->type_name("NUMBERS");
  CLI::Option* beta = verb->add_option("--beta", arguments->beta, "New beta: .npy file or list")->type_name("NUMBERS");
  gamma->needs(beta);
  beta->needs(gamma);
  verb->add_flag("--skip-update", arguments->options.skip_update, "Store nothing");
  AddRequestId(verb, &arguments->options.request_id);
  verb->callback([arguments, context] {
    arguments->tensor.Claim(context);
    context->action = [arguments, context] { return Run(arguments.get(), context); };
  });
}

}  // namespace normd::cli
