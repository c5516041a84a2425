#include <memory>
#include <string>

#include "client/cli/names.h"
#include "client/cli/verbs.h"

namespace normd::cli {

void AddLogLevel(CLI::App* parent, Context* context) {
  const auto level = std::make_shared<std::string>();
  CLI::App* verb = parent->add_subcommand("log-level", "Show or change what the server logs, while it runs");
  verb->footer("Holds until the server stops; --log-level of normd is what it starts with.");
  CLI::Option* const wanted =
      verb->add_option("level", *level, "The least important lines to log; debug has one per call")
          ->check(CLI::IsMember({"debug", "info", "warn", "error"}));
  verb->callback([level, wanted, context] {
    const bool change = wanted->count() > 0;
    context->action = [level, change, context]() -> absl::Status {
      if (change) {
        if (absl::Status status = context->client().SetLogLevel(LogLevelNames().at(*level)).status(); !status.ok()) {
          return status;
        }
      }
      const absl::StatusOr<LogLevel> now = context->client().GetLogLevel();
      if (now.ok()) context->printer().PrintLogLevel(*now);
      return now.status();
    };
  });
}

}  // namespace normd::cli
