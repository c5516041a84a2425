#ifndef NORMD_SERVER_APP_LOGGER_H_
#define NORMD_SERVER_APP_LOGGER_H_

#include <spdlog/logger.h>

#include <atomic>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <type_traits>
#include <variant>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace normd::app {

enum class LogLevel { kDebug, kInfo, kWarn, kError };
enum class LogFormat { kText, kJson };

// One fact of a log line.
struct LogField {
  using Value = std::variant<std::string, int64_t, double>;

  template <typename T>
  LogField(absl::string_view k, const T& v) : key(k) {
    if constexpr (std::is_integral_v<T>) {
      value = static_cast<int64_t>(v);
    } else if constexpr (std::is_floating_point_v<T>) {
      value = static_cast<double>(v);
    } else {
      value = std::string(v);
    }
  }

  absl::string_view key;
  Value value;
};

// Structured lines on stderr, each with time (UTC), level, message and fields. Text is `key=value` with values quoted
// where they must be; JSON is one object a line. Anything may stand in a value: it is escaped. Thread-safe.
class Logger {
 public:
  // Writes to stderr.
  Logger(LogLevel level, LogFormat format);
  // Writes to `sink`.
  Logger(LogLevel level, LogFormat format, spdlog::sink_ptr sink);

  bool Enabled(LogLevel level) const { return level >= this->level(); }
  LogLevel level() const { return level_.load(std::memory_order_relaxed); }
  void set_level(LogLevel level) { level_.store(level, std::memory_order_relaxed); }
  // Does nothing below the logger's level; ask Enabled first where a field is expensive.
  void Log(LogLevel level, absl::string_view message, std::initializer_list<LogField> fields = {}) {
    if (Enabled(level)) LogAlways(level, message, absl::MakeConstSpan(fields.begin(), fields.size()));
  }
  // At any level, for whoever has asked Enabled, or has to be heard.
  void LogAlways(LogLevel level, absl::string_view message, absl::Span<const LogField> fields);

 private:
  std::atomic<LogLevel> level_;
  const LogFormat format_;
  spdlog::logger out_;
};

// "debug", "info", "warn", "error".
absl::string_view NameOf(LogLevel level);
// The inverse. INVALID_ARGUMENT otherwise.
absl::StatusOr<LogLevel> ParseLogLevel(absl::string_view name);

}  // namespace normd::app

#endif  // NORMD_SERVER_APP_LOGGER_H_
