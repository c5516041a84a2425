#include "tests/benchmarks/rpc/caller.h"

#include <map>

#include "absl/strings/str_cat.h"

namespace normd::benchmarks {
namespace {

using Factory = absl::StatusOr<std::unique_ptr<Caller>> (*)(const CallerOptions& options);

const std::map<std::string, Factory>& Modes() {
  static const auto* const modes = new std::map<std::string, Factory>{
      {"raw", MakeRawCaller},
      {"stub", MakeStubCaller},
      {"sdk-sync", MakeSdkSyncCaller},
      {"sdk-async", MakeSdkAsyncCaller},
      {"sdk-shm", MakeSdkSharedMemoryCaller},
  };
  return *modes;
}

}  // namespace

std::vector<std::string> ModeNames() {
  std::vector<std::string> names;
  for (const auto& [name, factory] : Modes()) names.push_back(name);
  return names;
}

absl::StatusOr<std::unique_ptr<Caller>> MakeCaller(const std::string& mode, const CallerOptions& options) {
  const auto found = Modes().find(mode);
  if (found == Modes().end()) return absl::InvalidArgumentError(absl::StrCat("there is no mode '", mode, "'"));
  return found->second(options);
}

}  // namespace normd::benchmarks
