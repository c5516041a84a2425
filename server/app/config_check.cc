#include "server/app/config_check.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "server/access/access_control.h"
#include "server/app/listen_address.h"
#include "server/app/tls_files.h"
#include "server/base/clock.h"
#include "server/store/redis/redis_location.h"

namespace normd::app {
namespace {

// An empty string if files can be made in `folder`, or in what there is of it so far.
std::string WhyNotWritable(std::filesystem::path folder) {
  if (folder.empty()) folder = ".";
  struct stat info = {};
  while (stat(folder.c_str(), &info) != 0) {
    if (errno != ENOENT || !folder.has_parent_path() || folder == folder.parent_path()) {
      return absl::StrCat(folder.string(), ": ", std::strerror(errno));
    }
    folder = folder.parent_path();
  }
  if (!S_ISDIR(info.st_mode)) return absl::StrCat(folder.string(), " is no folder");
  if (::access(folder.c_str(), W_OK | X_OK) != 0) {
    return absl::StrCat("cannot write to ", folder.string(), ": ", std::strerror(errno));
  }
  return "";
}

void CheckUnixSocket(const std::string& path, std::vector<std::string>* problems) {
  if (absl::Status status = CheckSocketPath(path); !status.ok()) {
    problems->push_back(absl::StrCat("unix-socket: ", status.message()));
    return;
  }
  const std::filesystem::path folder = std::filesystem::path(path).parent_path();
  std::error_code error;
  if (!folder.empty() && !std::filesystem::is_directory(folder, error)) {
    // Nobody makes it, other than that of the state.
    problems->push_back(absl::StrCat("unix-socket: there is no folder ", folder.string()));
  } else if (const std::string why = WhyNotWritable(folder); !why.empty()) {
    problems->push_back(absl::StrCat("unix-socket: ", why));
  }
}

void CheckSqlite(const std::string& path, std::vector<std::string>* problems) {
  if (const std::string why = WhyNotWritable(std::filesystem::path(path).parent_path()); !why.empty()) {
    problems->push_back(absl::StrCat("store: ", why));
  }
  struct stat info = {};
  if (stat(path.c_str(), &info) != 0) return;
  if (!S_ISREG(info.st_mode)) {
    problems->push_back(absl::StrCat("store: ", path, " is no file"));
  } else if (::access(path.c_str(), R_OK | W_OK) != 0) {
    problems->push_back(absl::StrCat("store: cannot read and write ", path, ": ", std::strerror(errno)));
  }
}

void CheckRedis(const std::string& location, std::vector<std::string>* problems) {
  const absl::StatusOr<store::RedisLocation> redis = store::ParseRedisLocation(location);
  if (!redis.ok()) return;  // The command line says so.
  for (const std::string& path : {redis->ca_file, redis->cert_file, redis->key_file}) {
    if (path.empty() || ::access(path.c_str(), R_OK) == 0) continue;
    problems->push_back(absl::StrCat("store: cannot read ", path, ": ", std::strerror(errno)));
  }
}

}  // namespace

std::vector<std::string> ConfigProblems(const ServerOptions& options) {
  std::vector<std::string> problems;
  if (absl::Status status = CheckListening(options); !status.ok()) problems.emplace_back(status.message());
  if (options.tls.enabled()) {
    if (absl::Status status = ReadTlsFiles(options.tls, absl::Now()).status(); !status.ok()) {
      problems.emplace_back(status.message());
    }
  }
  const absl::Status access =
      access::AccessControl::Open(options.access, base::Clock::System(), [](const absl::Status&) {}).status();
  if (!access.ok()) problems.push_back(absl::StrCat("access-file: ", access.message()));
  if (!options.unix_socket.empty()) CheckUnixSocket(options.unix_socket, &problems);
  if (const absl::StatusOr<HostPort> metrics = ParseHostPort(options.metrics_listen);
      metrics.ok() && metrics->port != 0 && options.metrics_listen == options.listen) {
    problems.push_back(
        absl::StrCat("metrics-listen: ", options.metrics_listen, " is the address of listen, want another"));
  }
  absl::string_view path = options.store.location;
  if (absl::ConsumePrefix(&path, "sqlite:")) CheckSqlite(std::string(path), &problems);
  if (store::IsRedisLocation(options.store.location)) CheckRedis(options.store.location, &problems);
  return problems;
}

}  // namespace normd::app
