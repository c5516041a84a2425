#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "client/cli/command_line.h"
#include "client/cli/context.h"
#include "client/cli/hints.h"

namespace normd::cli {
namespace {

enum ExitCode { kDone = 0, kFailed = 1, kWrongUsage = 2 };

// Colour only for people: a terminal that has it, and nobody who said no (no-color.org).
bool Coloured() {
  const char* const terminal = std::getenv("TERM");
  return isatty(STDERR_FILENO) == 1 && std::getenv("NO_COLOR") == nullptr && terminal != nullptr &&
         absl::string_view(terminal) != "dumb";
}

void PrintError(absl::string_view text, absl::string_view hint) {
  const bool coloured = Coloured();
  std::cerr << (coloured ? "\033[31merror:\033[0m " : "error: ") << text << "\n";
  if (!hint.empty()) std::cerr << (coloured ? "\033[36mhint:\033[0m " : "hint: ") << hint << "\n";
}

int Run(int argc, char** argv) {
  Context context;
  CLI::App app("", "normctl");
  AddCommandLine(&app, &context);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    // Help is an "error" too, of code 0.
    return app.exit(error) == 0 ? kDone : kWrongUsage;
  }
  absl::Status status = context.action();
  std::cout.flush();
  if (status.ok() && !std::cout) status = absl::DataLossError("cannot write to stdout");
  if (status.ok()) return kDone;
  if (context.called_server()) {
    PrintError(absl::StatusCodeToString(status.code()) + ": " + std::string(status.message()),
               HintFor(status, &context));
  } else {
    PrintError(status.message(), "");
  }
  return kFailed;
}

}  // namespace
}  // namespace normd::cli

int main(int argc, char** argv) {
  try {
    return normd::cli::Run(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 1;
  }
}
