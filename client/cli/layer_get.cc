#include "client/cli/verbs.h"

namespace normd::cli {

void AddLayerGet(CLI::App* parent, Context* context) {
  CLI::App* verb = parent->add_subcommand("get", "Show a layer's settings (JSON: its state too)");
  AddLayerName(verb, context);
  verb->callback([context] {
    context->action = [context] {
      const absl::StatusOr<Layer> layer = context->client().GetLayer(context->layer, /*with_state=*/true);
      if (!layer.ok()) return layer.status();
      context->printer().PrintLayer(*layer);
      return absl::OkStatus();
    };
  });
}

}  // namespace normd::cli
