#include "server/app/logger.h"

#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/stdout_sinks.h>

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace normd::app {
namespace {

constexpr absl::string_view kLevelNames[] = {"debug", "info", "warn", "error"};

std::string Now() { return absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::Now(), absl::UTCTimeZone()); }

bool NeedsQuotes(absl::string_view value) {
  if (value.empty()) return true;
  for (const char c : value) {
    if (!absl::ascii_isgraph(static_cast<unsigned char>(c)) || c == '"' || c == '=' || c == '\\') return true;
  }
  return false;
}

std::string TextValue(const LogField::Value& value) {
  if (const auto* number = std::get_if<int64_t>(&value)) return absl::StrCat(*number);
  if (const auto* number = std::get_if<double>(&value)) return absl::StrCat(*number);
  const std::string& text = std::get<std::string>(value);
  return NeedsQuotes(text) ? absl::StrCat("\"", absl::Utf8SafeCEscape(text), "\"") : text;
}

std::string TextLine(LogLevel level, absl::string_view message, absl::Span<const LogField> fields) {
  std::string line =
      absl::StrCat("time=", Now(), " level=", NameOf(level), " message=", TextValue(std::string(message)));
  for (const LogField& field : fields) absl::StrAppend(&line, " ", field.key, "=", TextValue(field.value));
  return line;
}

std::string JsonLine(LogLevel level, absl::string_view message, absl::Span<const LogField> fields) {
  nlohmann::ordered_json line;
  line["time"] = Now();
  line["level"] = std::string(NameOf(level));
  line["message"] = std::string(message);
  for (const LogField& field : fields) {
    std::visit([&](const auto& value) { line[std::string(field.key)] = value; }, field.value);
  }
  // Bytes that are no UTF-8 become U+FFFD, where the default would throw.
  return line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace

Logger::Logger(LogLevel level, LogFormat format)
    : Logger(level, format, std::make_shared<spdlog::sinks::stderr_sink_mt>()) {}

Logger::Logger(LogLevel level, LogFormat format, spdlog::sink_ptr sink)
    : level_(level), format_(format), out_("normd", std::move(sink)) {
  out_.set_level(spdlog::level::trace);
  out_.set_formatter(std::make_unique<spdlog::pattern_formatter>("%v"));
}

void Logger::LogAlways(LogLevel level, absl::string_view message, absl::Span<const LogField> fields) {
  const std::string line =
      format_ == LogFormat::kJson ? JsonLine(level, message, fields) : TextLine(level, message, fields);
  out_.log(spdlog::level::info, spdlog::string_view_t(line.data(), line.size()));
}

absl::string_view NameOf(LogLevel level) { return kLevelNames[static_cast<int>(level)]; }

absl::StatusOr<LogLevel> ParseLogLevel(absl::string_view name) {
  for (const LogLevel level : {LogLevel::kDebug, LogLevel::kInfo, LogLevel::kWarn, LogLevel::kError}) {
    if (NameOf(level) == name) return level;
  }
  return absl::InvalidArgumentError(absl::StrCat("'", name, "' is no log level: want debug, info, warn or error"));
}

}  // namespace normd::app
