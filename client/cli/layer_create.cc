#include <memory>

#include "client/cli/settings_flags.h"
#include "client/cli/verbs.h"

namespace normd::cli {

void AddLayerCreate(CLI::App* parent, Context* context) {
  struct Arguments {
    std::string preset;
    CallOptions call;
    SettingsFlags settings;
  };
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* verb = parent->add_subcommand("create", "Create a layer");
  AddLayerName(verb, context);
  verb->add_option("--preset", arguments->preset,
                   "Preset that fills in what is not given (the server's default: reference)")
      ->check(CLI::IsMember(
          {"reference", "pytorch", "keras", "keras_fused", "flax", "haiku", "standard_scaler", "rl_observation"}));
  arguments->settings.AddImmutable(verb);
  arguments->settings.AddMutable(verb);
  AddRequestId(verb, &arguments->call.request_id);
  verb->callback([arguments, context] {
    context->action = [arguments, context] {
      LayerSpec spec;
      spec.name = context->layer;
      spec.preset = arguments->preset;
      spec.config = arguments->settings.config();
      const absl::StatusOr<Layer> layer = context->client().CreateLayer(spec, arguments->call);
      if (!layer.ok()) return layer.status();
      context->printer().PrintLayer(*layer);
      return absl::OkStatus();
    };
  });
}

}  // namespace normd::cli
