#include "server/store/redis/redis_location.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <iterator>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace normd::store {
namespace {

constexpr absl::string_view kOptionNames[] = {
    "prefix", "wait", "wait-timeout-ms", "connect-timeout-ms", "timeout-ms", "retry-ms", "poll-ms", "lease-ms", "ca",
    "cert",   "key"};

// Where the '@' stands that ends user and password, or npos. An '@' in the options is not it; but what follows a '?' is
// options only if it begins like one that there is: else it may well be the rest of a password that holds a raw '?'.
std::size_t EndOfCredentials(absl::string_view text) {
  std::size_t options = text.find('?');
  while (options != absl::string_view::npos &&
         std::none_of(std::begin(kOptionNames), std::end(kOptionNames), [&](absl::string_view name) {
           return absl::StartsWith(text.substr(options + 1), absl::StrCat(name, "="));
         })) {
    options = text.find('?', options + 1);
  }
  return text.substr(0, options).rfind('@');
}

// Of user and password, in which ':', '@', '/' and '?' must be written as %XX.
absl::StatusOr<std::string> PercentDecoded(absl::string_view text) {
  std::string decoded;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      decoded += text[i];
      continue;
    }
    const absl::string_view digits = text.substr(i + 1, 2);
    if (digits.size() != 2 || !absl::ascii_isxdigit(digits[0]) || !absl::ascii_isxdigit(digits[1])) {
      return absl::InvalidArgumentError("user or password has a % that is not followed by two hex digits");
    }
    decoded += absl::HexStringToBytes(digits);
    i += 2;
  }
  return decoded;
}

absl::StatusOr<RedisEndpoint> ParseEndpoint(absl::string_view text, int default_port) {
  RedisEndpoint endpoint;
  endpoint.port = default_port;
  absl::string_view host = text;
  absl::string_view port;
  const std::size_t bracket = text.find(']');
  const std::size_t colon = text.find(':', bracket == absl::string_view::npos ? 0 : bracket);
  if (colon != absl::string_view::npos) {
    host = text.substr(0, colon);
    port = text.substr(colon + 1);
    if (!absl::SimpleAtoi(port, &endpoint.port) || endpoint.port < 1 || endpoint.port > 65535) {
      return absl::InvalidArgumentError(absl::StrCat("port '", port, "', want 1 to 65535"));
    }
  }
  if (absl::ConsumePrefix(&host, "[") && !absl::ConsumeSuffix(&host, "]")) host = "";
  if (host.empty()) return absl::InvalidArgumentError(absl::StrCat("'", text, "', want HOST:PORT"));
  endpoint.host = std::string(host);
  return endpoint;
}

absl::Status SetNumber(absl::string_view name, absl::string_view value, int least, int most, int* number) {
  if (absl::SimpleAtoi(value, number) && *number >= least && *number <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(name, " is '", value, "', want ", least, " to ", most));
}

absl::Status SetOption(absl::string_view name, absl::string_view value, RedisLocation* location) {
  const std::pair<absl::string_view, absl::Duration*> durations[] = {
      {"wait-timeout-ms", &location->wait_timeout}, {"connect-timeout-ms", &location->connect_timeout},
      {"timeout-ms", &location->command_timeout},   {"retry-ms", &location->retry_time},
      {"poll-ms", &location->poll_interval},        {"lease-ms", &location->lease}};
  for (const auto& [key, duration] : durations) {
    if (name != key) continue;
    int milliseconds = 0;
    // A lease has to outlast some signs of life.
    absl::Status status = SetNumber(name, value, name == "lease-ms" ? 300 : 1, 86'400'000, &milliseconds);
    *duration = absl::Milliseconds(milliseconds);
    return status;
  }
  if (name == "wait") return SetNumber(name, value, 0, 100, &location->wait_replicas);
  if (name == "prefix") {
    if (value.empty() || value.find_first_of("{}") != absl::string_view::npos) {
      return absl::InvalidArgumentError(absl::StrCat("prefix is '", value, "', want some text without braces"));
    }
    location->prefix = std::string(value);
    return absl::OkStatus();
  }
  const std::pair<absl::string_view, std::string*> files[] = {
      {"ca", &location->ca_file}, {"cert", &location->cert_file}, {"key", &location->key_file}};
  for (const auto& [key, file] : files) {
    if (name != key) continue;
    if (!location->tls) return absl::InvalidArgumentError(absl::StrCat(name, " needs TLS: want rediss"));
    *file = std::string(value);
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown option '", name, "', want one of ", absl::StrJoin(kOptionNames, ", ")));
}

absl::StatusOr<RedisLocation> Parse(absl::string_view url) {
  RedisLocation location;
  absl::string_view rest = url;
  if (absl::ConsumePrefix(&rest, "rediss")) {
    location.tls = true;
  } else {
    absl::ConsumePrefix(&rest, "redis");
  }
  if (absl::ConsumePrefix(&rest, "+sentinel")) {
    location.topology = RedisLocation::Topology::kSentinel;
  } else if (absl::ConsumePrefix(&rest, "+cluster")) {
    location.topology = RedisLocation::Topology::kCluster;
  }
  if (!absl::ConsumePrefix(&rest, "://")) return absl::InvalidArgumentError("it has no ://");

  // Before any message below can quote a piece of it.
  if (const std::size_t at = EndOfCredentials(rest); at != absl::string_view::npos && rest.find('?') < at) {
    return absl::InvalidArgumentError("there is a '?' before the last '@': in user or password it is written as %3F");
  }
  const std::pair<absl::string_view, absl::string_view> parts = absl::StrSplit(rest, absl::MaxSplits('?', 1));
  absl::string_view authority = parts.first;
  if (const std::size_t at = authority.rfind('@'); at != absl::string_view::npos) {
    const absl::string_view credentials = authority.substr(0, at);
    authority.remove_prefix(at + 1);
    const std::size_t colon = credentials.find(':');
    absl::StatusOr<std::string> user = PercentDecoded(credentials.substr(0, colon));
    if (!user.ok()) return user.status();
    location.user = *std::move(user);
    if (colon != absl::string_view::npos) {
      absl::StatusOr<std::string> password = PercentDecoded(credentials.substr(colon + 1));
      if (!password.ok()) return password.status();
      location.password = *std::move(password);
    }
  }
  const std::pair<absl::string_view, absl::string_view> path = absl::StrSplit(authority, absl::MaxSplits('/', 1));
  const bool sentinel = location.topology == RedisLocation::Topology::kSentinel;
  for (const absl::string_view text : absl::StrSplit(path.first, ',')) {
    absl::StatusOr<RedisEndpoint> endpoint = ParseEndpoint(text, sentinel ? 26379 : 6379);
    if (!endpoint.ok()) return endpoint.status();
    location.endpoints.push_back(*std::move(endpoint));
  }
  switch (location.topology) {
    case RedisLocation::Topology::kStandalone:
      if (location.endpoints.size() != 1) {
        return absl::InvalidArgumentError("it names several servers, want redis+sentinel or redis+cluster");
      }
      if (!path.second.empty()) {
        if (absl::Status s = SetNumber("database", path.second, 0, 1'000'000, &location.database); !s.ok()) return s;
      }
      break;
    case RedisLocation::Topology::kSentinel: {
      if (path.second.empty()) return absl::InvalidArgumentError("it has no /MASTER, the name that the sentinels know");
      location.master_name = std::string(path.second);
      break;
    }
    case RedisLocation::Topology::kCluster:
      if (!path.second.empty()) return absl::InvalidArgumentError("a cluster has no databases and no master's name");
      break;
  }
  for (const absl::string_view option : absl::StrSplit(parts.second, '&', absl::SkipEmpty())) {
    const std::pair<absl::string_view, absl::string_view> pair = absl::StrSplit(option, absl::MaxSplits('=', 1));
    if (absl::Status status = SetOption(pair.first, pair.second, &location); !status.ok()) return status;
  }
  return location;
}

}  // namespace

std::string RedisEndpoint::ToString() const {
  return host.find(':') == std::string::npos ? absl::StrCat(host, ":", port) : absl::StrCat("[", host, "]:", port);
}

bool IsRedisLocation(absl::string_view location) {
  return absl::ConsumePrefix(&location, "redis") && location.find(':') != absl::string_view::npos;
}

absl::StatusOr<RedisLocation> ParseRedisLocation(absl::string_view url) {
  absl::StatusOr<RedisLocation> location = Parse(url);
  if (location.ok()) return location;
  return absl::InvalidArgumentError(
      absl::StrCat("store '", WithoutPassword(url), "': ", location.status().message(), "; want ", kRedisForms));
}

std::string WithoutPassword(absl::string_view location) {
  if (absl::StartsWith(location, "sqlite:")) return std::string(location);
  const std::size_t begin = location.find("://");
  if (!IsRedisLocation(location) || begin == absl::string_view::npos) {
    // What is no location at all may hold a password nevertheless: redis:user:password@host.
    const std::size_t at = location.rfind('@');
    if (at == absl::string_view::npos) return std::string(location);
    return absl::StrCat(location.substr(0, location.find(':') + 1), "***", location.substr(at));
  }
  const std::size_t at = EndOfCredentials(location);
  const std::size_t colon = location.find(':', begin + 3);
  if (at == absl::string_view::npos || colon >= at) return std::string(location);
  return absl::StrCat(location.substr(0, colon), ":***", location.substr(at));
}

}  // namespace normd::store
