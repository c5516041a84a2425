#include "client/cli/restore_flags.h"

#include <string>

#include "client/cli/verbs.h"

namespace normd::cli {

void AddSelectionFlags(CLI::App* verb, LayerSelection* selection) {
  CLI::Option* const layer = verb->add_option("--layer", selection->layer, "This layer only")->type_name(kLayerType);
  verb->add_option("--prefix", selection->prefix, "The layers whose name starts with this (default: all)")
      ->excludes(layer);
}

void AddRestoreFlags(CLI::App* verb, RestoreSelection* selection) {
  AddSelectionFlags(verb, &selection->selection);
  verb->add_option_function<std::string>(
      "--as", [selection](const std::string& name) { selection->new_name = name; },
      "Restore under other names: the new name of --layer, or what takes the place of --prefix");
}

}  // namespace normd::cli
