#include <memory>

#include "absl/strings/str_cat.h"
#include "client/cli/names.h"
#include "client/cli/verbs.h"

namespace normd::cli {

void AddHealth(CLI::App* parent, Context* context) {
  const auto service = std::make_shared<std::string>();
  CLI::App* verb = parent->add_subcommand("health", "Ask whether the server takes calls; exits with 1 if it does not");
  verb->add_option("--service", *service,
                   "A service's full name, e.g. normd.v1.LayerService (default: the whole server)");
  verb->callback([service, context] {
    context->action = [service, context]() -> absl::Status {
      const absl::StatusOr<ServingStatus> status = context->client().Health(*service);
      if (!status.ok()) return status.status();
      context->printer().PrintHealth(context->server, *service, *status);
      if (*status == ServingStatus::kServing) return absl::OkStatus();
      return absl::FailedPreconditionError(absl::StrCat("the server is ", NameOf(*status)));
    };
  });
}

}  // namespace normd::cli
