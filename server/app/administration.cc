#include "server/app/administration.h"

namespace normd::app {
namespace {

// Both name the same four.
static_assert(v1::LOG_LEVEL_DEBUG == static_cast<int>(LogLevel::kDebug) + 1);
static_assert(v1::LOG_LEVEL_ERROR == static_cast<int>(LogLevel::kError) + 1);

}  // namespace

void Administration::FillStatistics(int max_layers, v1::ServerStatistics* statistics) {
  *statistics = statistics_->Collect(max_layers);
}

v1::LogLevel Administration::log_level() const {
  return static_cast<v1::LogLevel>(static_cast<int>(logger_->level()) + 1);
}

void Administration::set_log_level(v1::LogLevel level) {
  const auto wanted = static_cast<LogLevel>(static_cast<int>(level) - 1);
  const LogLevel before = logger_->level();
  logger_->set_level(wanted);
  // Whoever reads the log sees why it grows or falls silent.
  logger_->LogAlways(wanted, "log level changed", {{"from", NameOf(before)}, {"to", NameOf(wanted)}});
}

}  // namespace normd::app
