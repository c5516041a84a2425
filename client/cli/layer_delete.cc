#include <memory>

#include "client/cli/verbs.h"

namespace normd::cli {

void AddLayerDelete(CLI::App* parent, Context* context) {
  struct Arguments {
    std::string etag;
    CallOptions call;
  };
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* verb = parent->add_subcommand("delete", "Delete a layer and what it has learned");
  AddLayerName(verb, context);
  verb->add_option("--etag", arguments->etag, "Only if the layer's etag is still this one");
  AddRequestId(verb, &arguments->call.request_id);
  verb->callback([arguments, context] {
    context->action = [arguments, context] {
      absl::Status status = context->client().DeleteLayer(context->layer, arguments->etag, arguments->call);
      if (status.ok()) context->printer().PrintDeleted(context->layer);
      return status;
    };
  });
}

}  // namespace normd::cli
