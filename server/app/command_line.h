#ifndef NORMD_SERVER_APP_COMMAND_LINE_H_
#define NORMD_SERVER_APP_COMMAND_LINE_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/app/logger.h"
#include "server/app/server.h"

namespace normd::app {

// What the flags and the config file say. Precedence: flag, then config file, then default.
struct CommandLine {
  enum class Action { kServe, kPrint, kCheckHealth, kCheckConfig };
  Action action = Action::kServe;
  // kPrint: the text, for stdout (help, version). kCheckConfig: the settings in the form of the config file.
  std::string text;
  // kCheckConfig: what is wrong with the settings by themselves, each in one line that names the setting.
  std::vector<std::string> problems;
  // kCheckHealth: whom to ask.
  std::string health_address;

  ServerOptions server;
  LogLevel log_level = LogLevel::kInfo;
  LogFormat log_format = LogFormat::kText;
  absl::Duration drain_timeout = absl::Seconds(10);
  // Whether the system takes the threads as those of a batch job.
  bool batch_scheduling = false;
};

// INVALID_ARGUMENT, in one line that names the flag: unknown, out of range, or a config file that cannot be read.
absl::StatusOr<CommandLine> ParseCommandLine(int argc, const char* const* argv);

}  // namespace normd::app

#endif  // NORMD_SERVER_APP_COMMAND_LINE_H_
