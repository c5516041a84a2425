#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/app/command_line.h"
#include "server/app/config_check.h"
#include "server/app/grpc_log.h"
#include "server/app/health_check.h"
#include "server/app/logger.h"
#include "server/app/openmp_spin.h"
#include "server/app/server.h"
#include "server/app/stop_signals.h"
#include "server/base/process_settings.h"
#include "server/kernels/parallelism.h"

namespace normd::app {
namespace {

int CheckHealthAndReport(const CommandLine& command) {
  const absl::Status status = CheckHealth(command.health_address, command.server.tls, absl::Seconds(3));
  if (status.ok()) {
    std::printf("normd: %s: SERVING\n", command.health_address.c_str());
    return 0;
  }
  std::fprintf(stderr, "normd: not healthy: %s\n", std::string(status.message()).c_str());
  return 1;
}

int CheckConfigAndReport(const CommandLine& command) {
  const std::vector<std::string> problems =
      command.problems.empty() ? ConfigProblems(command.server) : command.problems;
  for (const std::string& problem : problems) std::fprintf(stderr, "normd: %s\n", problem.c_str());
  if (!problems.empty()) return 1;
  std::printf("# ok\n%s", command.text.c_str());
  return 0;
}

int Serve(const CommandLine& command) {
  // MemoryTrimmer returns it when no more calls come.
  base::KeepFreedMemory(kernels::AvailableCores());
  base::TrustLockOrder();
  StopSignals signals;
  // Never freed: gRPC's threads may log until the very end. Static, so that the leak checker sees it held.
  static Logger* const logger = new Logger(command.log_level, command.log_format);
  if (command.batch_scheduling) {
    const absl::Status status = base::ScheduleAsBatch();
    if (!status.ok()) logger->Log(LogLevel::kWarn, "no batch scheduling", {{"error", status.message()}});
  }
  absl::StatusOr<std::unique_ptr<Server>> server = Server::Start(command.server, logger);
  if (!server.ok()) {
    logger->Log(LogLevel::kError, server.status().message());
    return 1;
  }
  SendGrpcLogTo(logger);
  for (const std::string& address : (*server)->addresses()) std::printf("normd listening on %s\n", address.c_str());
  if (!(*server)->metrics_url().empty()) std::printf("normd metrics on %s\n", (*server)->metrics_url().c_str());
  std::fflush(stdout);

  const int signal = signals.Wait();
  logger->Log(LogLevel::kInfo, "signal received", {{"signal", signal}});
  signals.RunUnlessSignalled([&] { (*server)->Shutdown(command.drain_timeout); });
  return 0;
}

}  // namespace
}  // namespace normd::app

int main(int argc, char** argv) {
  using normd::app::CommandLine;
  // Until it serves, what goes wrong is said once, by normd itself.
  normd::app::SilenceGrpcLog();
  const absl::StatusOr<CommandLine> command = normd::app::ParseCommandLine(argc, argv);
  if (!command.ok()) {
    std::fprintf(stderr, "normd: %s\n", std::string(command.status().message()).c_str());
    return 1;
  }
  switch (command->action) {
    case CommandLine::Action::kPrint:
      std::fputs(command->text.c_str(), stdout);
      return 0;
    case CommandLine::Action::kCheckHealth:
      return normd::app::CheckHealthAndReport(*command);
    case CommandLine::Action::kCheckConfig:
      return normd::app::CheckConfigAndReport(*command);
    case CommandLine::Action::kServe:
      normd::app::LimitOpenMpSpin(argv);
      return normd::app::Serve(*command);
  }
  return 1;
}
