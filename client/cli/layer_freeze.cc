#include <memory>
#include <string>

#include "client/cli/verbs.h"

namespace normd::cli {
namespace {

void AddFrozenVerb(CLI::App* parent, Context* context, const std::string& name, const std::string& help, bool frozen) {
  const auto call = std::make_shared<CallOptions>();
  CLI::App* verb = parent->add_subcommand(name, help);
  AddLayerName(verb, context);
  AddRequestId(verb, &call->request_id);
  verb->callback([call, context, frozen] {
    context->action = [call, context, frozen] {
      LayerConfig config;
      config.frozen = frozen;
      const absl::StatusOr<Layer> layer =
          context->client().UpdateLayer(context->layer, config, {"frozen"}, /*etag=*/"", *call);
      if (!layer.ok()) return layer.status();
      context->printer().PrintLayer(*layer);
      return absl::OkStatus();
    };
  });
}

}  // namespace

void AddLayerFreeze(CLI::App* parent, Context* context) {
  AddFrozenVerb(parent, context, "freeze", "Keep a layer as it is: every change fails from now on", true);
  AddFrozenVerb(parent, context, "unfreeze", "Let a layer change again", false);
}

}  // namespace normd::cli
