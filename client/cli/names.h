#ifndef NORMD_CLIENT_CLI_NAMES_H_
#define NORMD_CLIENT_CLI_NAMES_H_

#include <map>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "normd/client.h"
#include "normd/layer.h"

// The enums' values as words: the wire's names in lower case, without the enum's own name in front.
namespace normd::cli {

const std::map<std::string, Averaging>& AveragingNames();
const std::map<std::string, VarianceEstimator>& VarianceEstimatorNames();
const std::map<std::string, TrainingStatistics>& TrainingStatisticsNames();
const std::map<std::string, NonFinitePolicy>& NonFinitePolicyNames();
const std::map<std::string, Layout>& LayoutNames();

// The word of a value; empty if it has none.
template <typename Enum>
std::string NameOf(const std::map<std::string, Enum>& names, Enum value) {
  for (const auto& [name, named] : names) {
    if (named == value) return name;
  }
  return "";
}

const std::map<std::string, LogLevel>& LogLevelNames();

absl::string_view NameOf(ServingStatus status);

}  // namespace normd::cli

#endif  // NORMD_CLIENT_CLI_NAMES_H_
