#include <cstdint>
#include <memory>

#include "client/cli/verbs.h"

namespace normd::cli {

void AddLayerReset(CLI::App* parent, Context* context) {
  struct Arguments {
    int64_t expected_version = 0;
    CallOptions call;
  };
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* verb = parent->add_subcommand("reset", "Forget the running statistics; gamma and beta stay");
  AddLayerName(verb, context);
  verb->add_option("--expected-version", arguments->expected_version, "Only if the layer's version is still this one");
  AddRequestId(verb, &arguments->call.request_id);
  verb->callback([arguments, context] {
    context->action = [arguments, context] {
      const absl::StatusOr<Layer> layer =
          context->client().ResetStatistics(context->layer, arguments->expected_version, arguments->call);
      if (!layer.ok()) return layer.status();
      context->printer().PrintLayer(*layer);
      return absl::OkStatus();
    };
  });
}

}  // namespace normd::cli
