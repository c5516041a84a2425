#ifndef NORMD_CLIENT_CLI_COMMAND_LINE_H_
#define NORMD_CLIENT_CLI_COMMAND_LINE_H_

#include <CLI/CLI.hpp>

#include "client/cli/context.h"

namespace normd::cli {

// The whole command line: global options and verbs. Parsing it fills `context`, which must outlive the app.
void AddCommandLine(CLI::App* app, Context* context);

}  // namespace normd::cli

#endif  // NORMD_CLIENT_CLI_COMMAND_LINE_H_
