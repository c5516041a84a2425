#ifndef NORMD_CLIENT_CLI_SETTINGS_FLAGS_H_
#define NORMD_CLIENT_CLI_SETTINGS_FLAGS_H_

#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <vector>

#include "normd/layer.h"

namespace normd::cli {

// The settings of a layer as flags, spelled as on the wire with '-' for '_'. Must outlive the app it is added to.
class SettingsFlags {
 public:
  // Those that can change later: --eps, --update-weight, --normalize-training-with, --clip, --non-finite-policy,
  // --[no-]frozen.
  void AddMutable(CLI::App* verb);
  // Those that are fixed at creation: --num-channels (required), --averaging, --running-var-estimator, --[no-]affine,
  // --[no-]track-running-stats.
  void AddImmutable(CLI::App* verb);
  // --no-clip, which names clip in given() and leaves it absent in config().
  void AddNoClip(CLI::App* verb);

  // After parsing: what was given, and the names of the fields.
  LayerConfig config() const;
  std::vector<std::string> given() const;

 private:
  LayerConfig values_;
  double eps_ = 0;
  double update_weight_ = 0;
  double clip_ = 0;
  bool no_clip_ = false;
  std::string averaging_;
  std::string running_var_estimator_;
  std::string normalize_training_with_;
  std::string non_finite_policy_;
  bool frozen_ = false;
  bool affine_ = false;
  bool track_running_stats_ = false;

  CLI::Option* eps_option_ = nullptr;
  CLI::Option* update_weight_option_ = nullptr;
  CLI::Option* clip_option_ = nullptr;
  CLI::Option* no_clip_option_ = nullptr;
  CLI::Option* frozen_option_ = nullptr;
  CLI::Option* affine_option_ = nullptr;
  CLI::Option* track_running_stats_option_ = nullptr;
};

}  // namespace normd::cli

#endif  // NORMD_CLIENT_CLI_SETTINGS_FLAGS_H_
