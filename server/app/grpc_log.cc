#include "server/app/grpc_log.h"

#include <grpc/support/log.h>

#include <atomic>

namespace normd::app {
namespace {

std::atomic<Logger*> target{nullptr};

void Forward(gpr_log_func_args* args) {
  Logger* const logger = target.load(std::memory_order_acquire);
  if (logger == nullptr) return;
  const LogLevel level = args->severity == GPR_LOG_SEVERITY_ERROR ? LogLevel::kWarn : LogLevel::kDebug;
  logger->Log(level, "grpc", {{"text", absl::string_view(args->message)}, {"file", absl::string_view(args->file)}});
}

}  // namespace

void SendGrpcLogTo(Logger* logger) {
  target.store(logger, std::memory_order_release);
  gpr_set_log_function(Forward);
}

void SilenceGrpcLog() { SendGrpcLogTo(nullptr); }

}  // namespace normd::app
