#include <iostream>
#include <memory>

#include "client/cli/completion_scripts.h"
#include "client/cli/verbs.h"

namespace normd::cli {

void AddCompletion(CLI::App* root, Context* context) {
  const auto shell = std::make_shared<std::string>();
  CLI::App* verb = root->add_subcommand("completion", "Print a completion script for a shell");
  verb->footer(
      "bash: source <(normctl completion bash)\nzsh:  source <(normctl completion zsh)\n"
      "fish: normctl completion fish | source");
  verb->add_option("shell", *shell, "The shell")->required()->check(CLI::IsMember({"bash", "zsh", "fish"}));
  verb->callback([root, shell, context] {
    context->action = [root, shell] {
      if (*shell == "bash") std::cout << BashCompletion(*root);
      if (*shell == "zsh") std::cout << ZshCompletion(*root);
      if (*shell == "fish") std::cout << FishCompletion(*root);
      return absl::OkStatus();
    };
  });
}

}  // namespace normd::cli
