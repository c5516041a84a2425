#include <memory>

#include "client/cli/verbs.h"

namespace normd::cli {

void AddDescribe(CLI::App* parent, Context* context) {
  const auto style = std::make_shared<DescribeStyle>();
  CLI::App* verb = parent->add_subcommand("describe", "Show a layer channel by channel");
  AddLayerName(verb, context);
  verb->add_flag("--all", style->all, "Every channel, not only the first and the last few");
  verb->add_flag("--ascii", style->ascii, "Draw without Unicode");
  verb->callback([style, context] {
    context->action = [style, context] {
      const absl::StatusOr<Layer> layer = context->client().GetLayer(context->layer, /*with_state=*/true);
      if (!layer.ok()) return layer.status();
      context->printer().PrintDescription(*layer, *style);
      return absl::OkStatus();
    };
  });
}

}  // namespace normd::cli
