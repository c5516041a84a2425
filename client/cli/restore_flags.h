#ifndef NORMD_CLIENT_CLI_RESTORE_FLAGS_H_
#define NORMD_CLIENT_CLI_RESTORE_FLAGS_H_

#include <CLI/CLI.hpp>

#include "normd/snapshot.h"

namespace normd::cli {

// --layer and --prefix. `selection` must outlive the app.
void AddSelectionFlags(CLI::App* verb, LayerSelection* selection);
// The same and --as.
void AddRestoreFlags(CLI::App* verb, RestoreSelection* selection);

}  // namespace normd::cli

#endif  // NORMD_CLIENT_CLI_RESTORE_FLAGS_H_
