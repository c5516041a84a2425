#include <memory>

#include "client/cli/verbs.h"

namespace normd::cli {

void AddLayerFork(CLI::App* parent, Context* context) {
  struct Arguments {
    std::string new_name;
    ForkOptions call;
  };
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* verb = parent->add_subcommand("fork", "Make a layer out of another one");
  AddLayerName(verb, context);
  verb->add_option("new-name", arguments->new_name, "Name of the new layer")->required();
  CLI::Option* const version =
      verb->add_option("--version", arguments->call.version, "Start from this recent version, not from the newest");
  verb->add_flag("--share-affine", arguments->call.share_affine,
                 "Share gamma, beta and the optimizer's state with the layer from now on")
      ->excludes(version);
  verb->add_flag("--reset-statistics", arguments->call.reset_statistics, "Start with fresh statistics");
  AddRequestId(verb, &arguments->call.request_id);
  verb->callback([arguments, context] {
    context->action = [arguments, context] {
      const absl::StatusOr<Layer> layer =
          context->client().ForkLayer(context->layer, arguments->new_name, arguments->call);
      if (!layer.ok()) return layer.status();
      context->printer().PrintLayer(*layer);
      return absl::OkStatus();
    };
  });
}

}  // namespace normd::cli
