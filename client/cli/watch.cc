#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "client/cli/verbs.h"

namespace normd::cli {

void AddWatch(CLI::App* parent, Context* context) {
  struct Arguments {
    WatchOptions options;
    std::string min_interval = "0";
    int64_t count = 0;
  };
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* verb = parent->add_subcommand("watch", "Print layers as they are, and each new version");
  verb->footer(
      "With --output json one object a line. Goes on until it is interrupted, also over a restart of the server.");
  CLI::Option* const names =
      verb->add_option("layers", arguments->options.names, "Names of layers")->type_name(kLayerType);
  verb->add_option("--prefix", arguments->options.prefix, "All layers whose name starts with this")->excludes(names);
  verb->add_flag("--with-state", arguments->options.with_state, "With what they have learned (JSON)");
  arguments->options.with_state = false;
  verb->add_option("--min-interval", arguments->min_interval, "Shortest time between two lines of a layer, e.g. 1s")
      ->type_name("DURATION")
      ->capture_default_str();
  verb->add_option("--count", arguments->count, "End after so many lines; 0: never")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  verb->callback([arguments, context] {
    if (absl::Status bad = ParseDuration(arguments->min_interval, &arguments->options.min_interval); !bad.ok()) {
      throw CLI::ValidationError("--min-interval", std::string(bad.message()));
    }
    context->action = [arguments, context]() -> absl::Status {
      const std::unique_ptr<LayerWatch> watch = context->client().Watch(arguments->options);
      for (int64_t line = 0; arguments->count == 0 || line < arguments->count; ++line) {
        const absl::StatusOr<LayerChange> change = watch->Next();
        if (!change.ok()) return change.status();
        context->printer().PrintChange(*change);
        std::cout.flush();
      }
      return absl::OkStatus();
    };
  });
}

}  // namespace normd::cli
