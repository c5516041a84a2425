#include "normd/version.h"

#include "client/cli/verbs.h"

namespace normd::cli {

void AddVersion(CLI::App* parent, Context* context) {
  CLI::App* verb = parent->add_subcommand("version", "Show the version of normctl");
  verb->callback([context] {
    context->action = [context] {
      context->printer().PrintVersion(Version());
      return absl::OkStatus();
    };
  });
}

}  // namespace normd::cli
