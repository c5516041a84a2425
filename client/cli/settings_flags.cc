#include "client/cli/settings_flags.h"

#include <map>

#include "client/cli/names.h"

namespace normd::cli {
namespace {

template <typename Enum>
CLI::Option* AddChoice(CLI::App* verb, const std::string& flag, const std::map<std::string, Enum>& names,
                       std::string* value, const std::string& help) {
  std::vector<std::string> words;
  words.reserve(names.size());
  for (const auto& [word, unused] : names) words.push_back(word);
  return verb->add_option(flag, *value, help)->check(CLI::IsMember(words));
}

template <typename Enum>
std::optional<Enum> ValueOf(const std::map<std::string, Enum>& names, const std::string& word) {
  const auto it = names.find(word);
  if (it == names.end()) return std::nullopt;
  return it->second;
}

bool Given(const CLI::Option* option) { return option != nullptr && option->count() > 0; }

}  // namespace

void SettingsFlags::AddMutable(CLI::App* verb) {
  eps_option_ = verb->add_option("--eps", eps_, "Added to the variance before the square root; > 0");
  update_weight_option_ = verb->add_option("--update-weight", update_weight_,
                                           "Weight of the new batch in the running statistics, 0 to 1 (PyTorch's "
                                           "momentum; one minus Keras's)");
  AddChoice(verb, "--normalize-training-with", TrainingStatisticsNames(), &normalize_training_with_,
            "Statistics that normalize a training batch");
  clip_option_ = verb->add_option("--clip", clip_, "Bound on |x_hat|; > 0");
  AddChoice(verb, "--non-finite-policy", NonFinitePolicyNames(), &non_finite_policy_,
            "What a NaN or an infinity in training does");
  frozen_option_ = verb->add_flag("--frozen,!--no-frozen", frozen_, "Whether the layer stays as it is");
}

void SettingsFlags::AddImmutable(CLI::App* verb) {
  verb->add_option("--num-channels", values_.num_channels, "Number of channels")->required();
  AddChoice(verb, "--averaging", AveragingNames(), &averaging_, "How the running statistics follow the batches");
  AddChoice(verb, "--running-var-estimator", VarianceEstimatorNames(), &running_var_estimator_,
            "Which variance goes into running_var");
  affine_option_ = verb->add_flag("--affine,!--no-affine", affine_, "Whether the layer has gamma and beta");
  track_running_stats_option_ = verb->add_flag("--track-running-stats,!--no-track-running-stats", track_running_stats_,
                                               "Whether the layer keeps running statistics");
}

void SettingsFlags::AddNoClip(CLI::App* verb) {
  no_clip_option_ = verb->add_flag("--no-clip", no_clip_, "Remove the bound on |x_hat|")->excludes(clip_option_);
}

LayerConfig SettingsFlags::config() const {
  LayerConfig config = values_;
  if (Given(eps_option_)) config.eps = eps_;
  if (Given(update_weight_option_)) config.update_weight = update_weight_;
  if (Given(clip_option_)) config.clip = clip_;
  if (Given(frozen_option_)) config.frozen = frozen_;
  if (Given(affine_option_)) config.affine = affine_;
  if (Given(track_running_stats_option_)) config.track_running_stats = track_running_stats_;
  config.averaging = ValueOf(AveragingNames(), averaging_);
  config.running_var_estimator = ValueOf(VarianceEstimatorNames(), running_var_estimator_);
  config.normalize_training_with = ValueOf(TrainingStatisticsNames(), normalize_training_with_);
  config.non_finite_policy = ValueOf(NonFinitePolicyNames(), non_finite_policy_);
  return config;
}

std::vector<std::string> SettingsFlags::given() const {
  std::vector<std::string> fields;
  if (Given(eps_option_)) fields.emplace_back("eps");
  if (Given(update_weight_option_)) fields.emplace_back("update_weight");
  if (!normalize_training_with_.empty()) fields.emplace_back("normalize_training_with");
  if (Given(clip_option_) || Given(no_clip_option_)) fields.emplace_back("clip");
  if (!non_finite_policy_.empty()) fields.emplace_back("non_finite_policy");
  if (Given(frozen_option_)) fields.emplace_back("frozen");
  return fields;
}

}  // namespace normd::cli
