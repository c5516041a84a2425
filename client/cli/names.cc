#include "client/cli/names.h"

namespace normd::cli {

const std::map<std::string, Averaging>& AveragingNames() {
  static const auto* const names = new std::map<std::string, Averaging>{
      {"exponential", Averaging::kExponential},
      {"exponential_debiased", Averaging::kExponentialDebiased},
      {"cumulative", Averaging::kCumulative},
      {"pooled", Averaging::kPooled},
  };
  return *names;
}

const std::map<std::string, VarianceEstimator>& VarianceEstimatorNames() {
  static const auto* const names = new std::map<std::string, VarianceEstimator>{
      {"population", VarianceEstimator::kPopulation},
      {"sample", VarianceEstimator::kSample},
  };
  return *names;
}

const std::map<std::string, TrainingStatistics>& TrainingStatisticsNames() {
  static const auto* const names = new std::map<std::string, TrainingStatistics>{
      {"batch", TrainingStatistics::kBatch},
      {"running_before_update", TrainingStatistics::kRunningBeforeUpdate},
      {"running_after_update", TrainingStatistics::kRunningAfterUpdate},
  };
  return *names;
}

const std::map<std::string, NonFinitePolicy>& NonFinitePolicyNames() {
  static const auto* const names = new std::map<std::string, NonFinitePolicy>{
      {"reject", NonFinitePolicy::kReject},
      {"skip_channel", NonFinitePolicy::kSkipChannel},
      {"propagate", NonFinitePolicy::kPropagate},
  };
  return *names;
}

const std::map<std::string, Layout>& LayoutNames() {
  static const auto* const names = new std::map<std::string, Layout>{
      {"channels_first", Layout::kChannelsFirst},
      {"channels_last", Layout::kChannelsLast},
  };
  return *names;
}

const std::map<std::string, LogLevel>& LogLevelNames() {
  static const auto* const names = new std::map<std::string, LogLevel>{
      {"debug", LogLevel::kDebug},
      {"info", LogLevel::kInfo},
      {"warn", LogLevel::kWarn},
      {"error", LogLevel::kError},
  };
  return *names;
}

absl::string_view NameOf(ServingStatus status) {
  switch (status) {
    case ServingStatus::kServing:
      return "SERVING";
    case ServingStatus::kNotServing:
      return "NOT_SERVING";
    case ServingStatus::kUnknown:
      break;
  }
  return "UNKNOWN";
}

}  // namespace normd::cli
