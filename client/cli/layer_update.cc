#include <memory>

#include "client/cli/settings_flags.h"
#include "client/cli/verbs.h"

namespace normd::cli {

void AddLayerUpdate(CLI::App* parent, Context* context) {
  struct Arguments {
    std::string etag;
    CallOptions call;
    SettingsFlags settings;
  };
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* verb = parent->add_subcommand("update", "Change settings of a layer");
  AddLayerName(verb, context);
  arguments->settings.AddMutable(verb);
  arguments->settings.AddNoClip(verb);
  verb->add_option("--etag", arguments->etag, "Only if the layer's etag is still this one");
  AddRequestId(verb, &arguments->call.request_id);
  verb->callback([arguments, context] {
    if (arguments->settings.given().empty()) throw CLI::ValidationError("layer update", "name at least one setting");
    context->action = [arguments, context] {
      const absl::StatusOr<Layer> layer = context->client().UpdateLayer(
          context->layer, arguments->settings.config(), arguments->settings.given(), arguments->etag, arguments->call);
      if (!layer.ok()) return layer.status();
      context->printer().PrintLayer(*layer);
      return absl::OkStatus();
    };
  });
}

}  // namespace normd::cli
