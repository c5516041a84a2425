#ifndef NORMD_CLIENT_CLI_COMPLETION_SCRIPTS_H_
#define NORMD_CLIENT_CLI_COMPLETION_SCRIPTS_H_

#include <CLI/CLI.hpp>
#include <string>

namespace normd::cli {

// Completion scripts made from the tree of verbs and options itself, so that they cannot go stale. Words, options and
// the values of options are completed; a LAYER by asking the server, which NORMD_SERVER names; a FILE by the shell.
std::string BashCompletion(const CLI::App& root);
std::string ZshCompletion(const CLI::App& root);
std::string FishCompletion(const CLI::App& root);

}  // namespace normd::cli

#endif  // NORMD_CLIENT_CLI_COMPLETION_SCRIPTS_H_
