#ifndef NORMD_SERVER_APP_LOGGER_H_
#define NORMD_SERVER_APP_LOGGER_H_

#include <spdlog/logger.h>

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <type_traits>
#include <variant>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

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

  bool Enabled(LogLevel level) const { return level >= level_; }
  // Does nothing below the logger's level; ask Enabled first where a field is expensive.
  void Log(LogLevel level, absl::string_view message, std::initializer_list<LogField> fields = {});

 private:
  const LogLevel level_;
  const LogFormat format_;
  spdlog::logger out_;
};

// "debug", "info", "warn", "error". INVALID_ARGUMENT otherwise.
absl::StatusOr<LogLevel> ParseLogLevel(absl::string_view name);

}  // namespace normd::app

#endif  // NORMD_SERVER_APP_LOGGER_H_
