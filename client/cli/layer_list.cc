#include <iostream>
#include <memory>
#include <utility>
#include <vector>

#include "client/cli/verbs.h"

namespace normd::cli {

void AddLayerList(CLI::App* parent, Context* context) {
  struct Arguments {
    std::string prefix;
    bool names = false;
  };
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* verb = parent->add_subcommand("list", "List the layers by name");
  verb->add_option("--prefix", arguments->prefix, "Only names that start with this");
  verb->add_flag("--names", arguments->names, "Print the names only, one a line");
  verb->callback([arguments, context] {
    context->action = [arguments, context]() -> absl::Status {
      ListLayersOptions list;
      list.prefix = arguments->prefix;
      list.page_size = 1000;
      std::vector<Layer> layers;
      do {
        absl::StatusOr<LayerPage> page = context->client().ListLayers(list);
        if (!page.ok()) return page.status();
        for (Layer& layer : page->layers) layers.push_back(std::move(layer));
        list.page_token = page->next_page_token;
      } while (!list.page_token.empty());
      if (!arguments->names) {
        context->printer().PrintLayers(layers);
        return absl::OkStatus();
      }
      for (const Layer& layer : layers) std::cout << layer.name << "\n";
      return absl::OkStatus();
    };
  });
}

}  // namespace normd::cli
