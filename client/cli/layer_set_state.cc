#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cli/npy.h"
#include "client/cli/state_json.h"
#include "client/cli/verbs.h"

namespace normd::cli {
namespace {

struct Arguments {
  std::string from;
  std::string running_mean;
  std::string running_var;
  std::string sample_count;
  int64_t num_batches_tracked = 0;
  std::string gamma;
  std::string beta;
  int64_t expected_version = 0;
  bool reset_optimizer = false;
  CallOptions call;
};

absl::StatusOr<LayerState> ReadState(const Arguments& arguments) {
  LayerState state;
  if (!arguments.from.empty()) {
    const absl::StatusOr<std::string> text = ReadFile(arguments.from);
    if (!text.ok()) return text.status();
    absl::StatusOr<LayerState> parsed = ParseState(*text);
    if (!parsed.ok()) return absl::InvalidArgumentError(absl::StrCat(arguments.from, ": ", parsed.status().message()));
    state = *std::move(parsed);
  }
  const std::pair<const std::string*, std::vector<double>*> lists[] = {
      {&arguments.running_mean, &state.running_mean},
      {&arguments.running_var, &state.running_var},
      {&arguments.sample_count, &state.sample_count},
      {&arguments.gamma, &state.gamma},
      {&arguments.beta, &state.beta},
  };
  for (const auto& [text, values] : lists) {
    if (text->empty()) continue;
    absl::StatusOr<std::vector<double>> numbers = ReadNumbers(*text);
    if (!numbers.ok()) return numbers.status();
    *values = *std::move(numbers);
  }
  if (arguments.num_batches_tracked != 0) state.num_batches_tracked = arguments.num_batches_tracked;
  return state;
}

}  // namespace

void AddLayerSetState(CLI::App* parent, Context* context) {
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* verb = parent->add_subcommand("set-state", "Overwrite statistics, counters, gamma or beta");
  verb->footer("NUMBERS is a .npy file or a list such as 0,0.5,1. What is not given stays as it is.");
  AddLayerName(verb, context);
  verb->add_option("--from", arguments->from, "What `normctl layer get --output json` printed; - for stdin")
      ->type_name(kFileType);
  const std::pair<const char*, std::string*> lists[] = {{"--running-mean", &arguments->running_mean},
                                                        {"--running-var", &arguments->running_var},
                                                        {"--sample-count", &arguments->sample_count},
                                                        {"--gamma", &arguments->gamma},
                                                        {"--beta", &arguments->beta}};
  for (const auto& [flag, value] : lists) verb->add_option(flag, *value, "One per channel")->type_name("NUMBERS");
  verb->add_option("--num-batches-tracked", arguments->num_batches_tracked, "Training steps that they hold");
  verb->add_option("--expected-version", arguments->expected_version, "Only if the layer's version is still this one");
  verb->add_flag("--reset-optimizer", arguments->reset_optimizer, "Also forget the optimizer's buffers");
  AddRequestId(verb, &arguments->call.request_id);
  verb->callback([arguments, context] {
    context->action = [arguments, context] {
      const absl::StatusOr<LayerState> state = ReadState(*arguments);
      if (!state.ok()) return state.status();
      const absl::StatusOr<Layer> layer = context->client().SetState(
          context->layer, *state, arguments->expected_version, arguments->reset_optimizer, arguments->call);
      if (!layer.ok()) return layer.status();
      context->printer().PrintLayer(*layer);
      return absl::OkStatus();
    };
  });
}

}  // namespace normd::cli
