#include "server/app/command_line.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <limits>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "server/app/listen_address.h"
#include "server/store/redis/redis_location.h"

namespace normd::app {
namespace {

// protobuf counts the bytes of a message in an int.
constexpr int64_t kMaxMessageBytes = std::numeric_limits<int32_t>::max();
// A budget that has room for the smallest --max-message-bytes many times over.
constexpr int64_t kMinMemoryBudget = 1 << 20;

// What a health check dials when it is told nothing: a way in to the server that the same flags start.
std::string DefaultHealthAddress(const ServerOptions& options) {
  if (!options.unix_socket.empty()) return absl::StrCat("unix:", options.unix_socket);
  absl::StatusOr<HostPort> address = ParseHostPort(options.listen);
  if (!address.ok()) return options.listen;
  if (address->host == "0.0.0.0") address->host = "127.0.0.1";
  if (address->host == "::") address->host = "::1";
  return JoinHostPort(*address);
}

// Where state belongs on this system: what systemd says, then the XDG base directories.
std::string DefaultStore() {
  for (const auto& [variable, below] : {std::pair("STATE_DIRECTORY", ""), std::pair("XDG_STATE_HOME", "/normd"),
                                        std::pair("HOME", "/.local/state/normd")}) {
    const char* const folder = std::getenv(variable);
    if (folder != nullptr && *folder == '/') return absl::StrCat("sqlite:", folder, below, "/normd.db");
  }
  return "sqlite:normd.db";
}

store::Durability ParseDurability(absl::string_view name) {
  if (name == "power") return store::Durability::kPower;
  return name == "periodic" ? store::Durability::kPeriodic : store::Durability::kProcess;
}

// Of the store, from a file or, without one, from the environment: command lines are there for all to see.
absl::StatusOr<std::string> StorePassword(const std::string& path) {
  if (path.empty()) {
    const char* const variable = std::getenv("NORMD_STORE_PASSWORD");
    return variable == nullptr ? "" : variable;
  }
  std::ifstream file(path);
  std::string password;
  if (!std::getline(file, password) || password.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--store-password-file: ", path, " has no password that can be read"));
  }
  return password;
}

// An empty string unless `address` may be given to --listen.
std::string CheckListen(const std::string& address) {
  return address.empty() ? "" : std::string(ParseHostPort(address).status().message());
}

// An option in seconds, for `target`, whose value is the default.
CLI::Option* AddSeconds(CLI::App& app, const std::string& name, absl::Duration* target,
                        const std::string& description) {
  return app
      .add_option_function<double>(
          name, [target](double seconds) { *target = absl::Seconds(seconds); }, description)
      ->default_str(absl::StrCat(absl::ToDoubleSeconds(*target)));
}

// The options, in groups that the help shows; each writes to `command`.

void AddListenOptions(CLI::App& app, CommandLine& command) {
  app.option_defaults()->group("Listening and stopping");
  app.add_option("--listen", command.server.listen,
                 "HOST:PORT to listen on; port 0 picks a free one; \"\" turns TCP off")
      ->check(CLI::Validator(CheckListen, "HOST:PORT"));
  app.add_flag("--insecure", command.server.insecure,
               "Let --listen be an address that other machines reach without TLS, or where anyone may read and change "
               "every layer");
  app.add_option("--unix-socket", command.server.unix_socket, "Path of a Unix socket to listen on as well")
      ->type_name("PATH");
  AddSeconds(app, "--drain-timeout", &command.drain_timeout, "Seconds that running calls get after SIGTERM or SIGINT")
      ->check(CLI::Range(0.0, 86400.0));
}

void AddSecurityOptions(CLI::App& app, CommandLine& command) {
  ServerOptions& server = command.server;
  app.option_defaults()->group("Security");
  app.add_option(
         "--tls-cert", server.tls.cert_file,
         "PEM file with the certificate of --listen and those that lead to its root; read again when it changes")
      ->type_name("FILE");
  app.add_option("--tls-key", server.tls.key_file, "PEM file with its private key; read again when it changes")
      ->type_name("FILE");
  app.add_option("--tls-client-ca", server.tls.client_ca_file,
                 "PEM file with the certificates of those who sign clients' certificates: each client of --listen must "
                 "have one then; read again when it changes")
      ->type_name("FILE");
  app.add_option("--access-file", server.access.file,
                 "File that says who may do what, by token or certificate: NAME CREDENTIAL GRANT... in each line "
                 "(docs/security.md); read again when it changes; \"\": everybody may do everything")
      ->type_name("FILE");
  app.add_option("--max-calls-per-second", server.access.calls_per_second,
                 "Most calls a second of one identity, or of all clients without --access-file; more get "
                 "RESOURCE_EXHAUSTED with a hint when to come again; 0: as many as they like")
      ->check(CLI::Range(0.0, 1e9));
  app.add_option("--max-streams-per-connection", server.max_streams_per_connection,
                 "Most calls, streams among them, that one connection may have at a time; more wait at the client")
      ->check(CLI::Range(1, 1'000'000));
}

void AddStoreOptions(CLI::App& app, CommandLine& command, std::string& password_file) {
  store::StoreOptions& store = command.server.store;
  app.option_defaults()->group("State");
  app.add_option("--store", store.location,
                 absl::StrCat(
                     "Where layers are kept: sqlite:PATH; memory, which forgets them when the server stops; or Redis: ",
                     store::kRedisForms, ", with ?prefix=... and other options"))
      ->type_name("STORE")
      ->check(CLI::Validator(
          [](const std::string& location) { return std::string(store::CheckLocation(location).message()); }, ""));
  app.add_option(
         "--store-password-file", password_file,
         "File with the password of Redis on its first line; else the variable NORMD_STORE_PASSWORD is looked at")
      ->type_name("FILE");
  app.add_option_function<std::string>(
         "--durability", [&store](const std::string& name) { store.durability = ParseDurability(name); },
         "What an answered update survives in sqlite: process (a kill), power (a loss of power; waits for the "
         "disk), periodic (as process, and all but the last --sync-interval survives a loss of power)")
      ->default_str("process")
      ->check(CLI::IsMember({"process", "power", "periodic"}));
  AddSeconds(app, "--sync-interval", &store.sync_interval, "Seconds between two writes to the disk with periodic")
      ->check(CLI::Range(0.001, 86400.0));
}

void AddLayerOptions(CLI::App& app, CommandLine& command) {
  registry::RegistryOptions& limits = command.server.limits;
  app.option_defaults()->group("Layers");
  app.add_option("--max-layers", limits.max_layers, "Most layers; more get RESOURCE_EXHAUSTED")
      ->check(CLI::Range(int64_t{1}, int64_t{1'000'000'000}));
  app.add_option("--max-channels", limits.max_channels, "Most channels of one layer")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 27));
  app.add_option("--kept-versions", limits.versions.per_layer,
                 "Versions of a layer, before its newest, that readers may still ask for")
      ->check(CLI::Range(int64_t{0}, int64_t{1'000'000}));
  app.add_option("--max-kept-version-bytes", limits.versions.total_bytes,
                 "Most memory of the kept versions of all layers")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 50));
  AddSeconds(app, "--request-window", &limits.requests.window,
             "Seconds for which a mutation's request_id is remembered")
      ->check(CLI::Range(0.0, 366 * 86400.0));
  app.add_option("--max-layer-requests", limits.requests.per_layer, "Most request_ids remembered of one layer")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40));
  app.add_option("--max-requests", limits.requests.total, "Most request_ids remembered of all layers, 300 bytes each")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40));
}

void AddCallOptions(CLI::App& app, CommandLine& command) {
  ServerOptions& server = command.server;
  app.option_defaults()->group("Calls and memory");
  app.add_option("--threads", server.threads,
                 "Cores that one large tensor may use; 0: what the affinity mask and the cgroup quota allow")
      ->check(CLI::Range(0, 1024));
  app.add_flag(
      "--batch-scheduling", command.batch_scheduling,
      "Do not interrupt callers on this machine for each request: more calls, unless others keep the cores busy");
  app.add_option("--max-message-bytes", server.max_message_bytes, "Largest request; larger ones get RESOURCE_EXHAUSTED")
      ->check(CLI::Range(int64_t{1024}, kMaxMessageBytes));
  app.add_option("--memory-budget", server.memory_budget_bytes,
                 "Bytes of tensors and messages at a time; 0: half of what machine and cgroup allow")
      ->check(CLI::IsMember({int64_t{0}}) | CLI::Range(kMinMemoryBudget, int64_t{1} << 50));
  app.add_option("--max-waiting-calls", server.max_waiting_calls,
                 "Calls with large tensors that may wait; more get RESOURCE_EXHAUSTED")
      ->check(CLI::Range(int64_t{1}, int64_t{1'000'000}));
  AddSeconds(app, "--release-memory-after", &server.release_memory_after,
             "Seconds after which memory that no call has used goes back to the system; 0: never")
      ->check(CLI::Range(0.0, 86400.0));
}

void AddSharedMemoryOptions(CLI::App& app, CommandLine& command) {
  ServerOptions& server = command.server;
  app.option_defaults()->group("Shared memory");
  CLI::Option* const shared_memory =
      app.add_flag("--shared-memory", server.shared_memory,
                   "Let clients on this host pass tensors in POSIX shared memory that they register");
  app.add_flag("--open-inference-shared-memory", server.open_inference_shared_memory,
               "Let clients of the Open Inference Protocol register shared memory by its name alone")
      ->needs(shared_memory);
  app.add_option("--max-shared-memory-bytes", server.max_shared_memory_bytes,
                 "Most bytes of registered shared memory; more get RESOURCE_EXHAUSTED")
      ->check(CLI::Range(int64_t{4096}, int64_t{1} << 46));
}

void AddObservationOptions(CLI::App& app, CommandLine& command) {
  ServerOptions& server = command.server;
  app.option_defaults()->group("Logs and metrics");
  app.add_option_function<std::string>(
         "--log-level", [&command](const std::string& name) { command.log_level = ParseLogLevel(name).value(); },
         "Least important lines to log; debug has one line per call")
      ->default_str("info")
      ->check(CLI::IsMember({"debug", "info", "warn", "error"}));
  app.add_option_function<std::string>(
         "--log-format",
         [&command](const std::string& name) {
           command.log_format = name == "json" ? LogFormat::kJson : LogFormat::kText;
         },
         "Form of the log lines on stderr")
      ->default_str("text")
      ->check(CLI::IsMember({"text", "json"}));
  app.add_option_function<double>(
         "--log-slow-calls-after",
         [&server](double seconds) {
           server.log_slow_calls_after = seconds > 0 ? absl::Seconds(seconds) : absl::InfiniteDuration();
         },
         "Seconds after which a call gets a line at level warn; 0: never")
      ->default_str("0")
      ->check(CLI::Range(0.0, 86400.0));
  app.add_option("--metrics-listen", server.metrics_listen,
                 "HOST:PORT where Prometheus scrapes /metrics; port 0 picks a free one; \"\": nowhere")
      ->check(CLI::Validator(CheckListen, "HOST:PORT"));
  app.add_option("--metrics-max-layers", server.metrics_max_layers,
                 "Most layers with metrics of their own, the busiest first")
      ->check(CLI::Range(0, 10'000));
}

// As a line of the config file.
std::string SettingLine(const CLI::Option& option, const std::string& value) {
  double number = 0;
  const bool plain = option.get_expected_max() == 0 || absl::SimpleAtod(value, &number);
  return absl::StrCat(
      option.get_single_name(), " = ",
      plain ? value : absl::StrCat("\"", absl::StrReplaceAll(value, {{"\\", "\\\\"}, {"\"", "\\\""}}), "\""), "\n");
}

// Every setting with the value that it has, in the form of the config file. Without passwords.
std::string EffectiveSettings(const CLI::App& app) {
  std::string text;
  for (const CLI::Option* option : app.get_options()) {
    if (!option->get_configurable()) continue;
    std::string value = option->count() > 0 ? option->results().front() : option->get_default_str();
    if (value.empty() && option->get_expected_max() == 0) value = "false";
    if (option->check_name("--store")) value = store::LocationWithoutPassword(value);
    text += SettingLine(*option, value);
  }
  return text;
}

// What is wrong with each line of the config file by itself: the parser stops at the first. Changes the values of
// `app`.
std::vector<std::string> ConfigFileProblems(CLI::App& app) {
  std::vector<std::string> problems;
  const std::string path = app["--config"]->count() > 0 ? app["--config"]->as<std::string>() : "";
  if (path.empty() || !std::ifstream(path)) return problems;
  for (const CLI::ConfigItem& item : app.get_config_formatter()->from_file(path)) {
    if (item.name == "++" || item.name == "--") continue;  // Where a section begins and ends.
    CLI::Option* const option = app.get_option_no_throw(absl::StrCat("--", item.name));
    if (!item.parents.empty() || option == nullptr || !option->get_configurable()) {
      problems.push_back(absl::StrCat(path, ": unknown setting '", item.fullname(), "'"));
      continue;
    }
    try {
      option->clear();
      const bool flag = option->get_expected_max() == 0;
      option->add_result(flag ? option->get_flag_value("", app.get_config_formatter()->to_flag(item))
                              : absl::StrJoin(item.inputs, " "));
      option->run_callback();
    } catch (const CLI::Error& e) {
      problems.push_back(absl::StrCat(path, ": ", e.what()));
    }
  }
  return problems;
}

// In one line that names flag or setting.
std::string Explain(CLI::App& app, const CLI::Error& error) {
  if (dynamic_cast<const CLI::ConfigError*>(&error) == nullptr) return error.what();
  // CLI11 speaks of INI files, and does not say which.
  const absl::string_view key = absl::StripPrefix(error.what(), "INI was not able to parse ");
  return absl::StrCat(app["--config"]->as<std::string>(), ": unknown setting '", key, "'");
}

}  // namespace

absl::StatusOr<CommandLine> ParseCommandLine(int argc, const char* const* argv) {
  CommandLine result;
  ServerOptions& server = result.server;
  server.store.location = DefaultStore();
  std::string password_file;

  CLI::App app("normd: shared, versioned normalization layers over gRPC", "normd");
  app.option_defaults()->always_capture_default();
  AddListenOptions(app, result);
  AddSecurityOptions(app, result);
  AddStoreOptions(app, result, password_file);
  AddLayerOptions(app, result);
  AddCallOptions(app, result);
  AddSharedMemoryOptions(app, result);
  AddObservationOptions(app, result);
  app.option_defaults()->group("Options");  // The first group of the help.
  app.set_config("--config", "", "TOML file with these names and values; flags win over it", false)
      ->configurable(false)
      ->type_name("FILE");
  const CLI::Option* const check_config =
      app.add_flag("--check-config")
          ->description("Say what is wrong with these settings, or what they are, and exit 1 or 0")
          ->configurable(false);
  app.allow_config_extras(CLI::config_extras_mode::error);
  app.set_version_flag("--version", "normd " NORMD_VERSION)->configurable(false);
  CLI::Option* healthcheck =
      app.add_option("--healthcheck", result.health_address,
                     "Ask a running server whether it serves, and exit 0 or 1; default: the one that these flags start")
          ->expected(0, 1)
          ->configurable(false)
          ->type_name("[ADDRESS]");

  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    result.action = CommandLine::Action::kPrint;
    result.text = app.help();
    return result;
  } catch (const CLI::CallForVersion&) {
    result.action = CommandLine::Action::kPrint;
    result.text = absl::StrCat("normd ", NORMD_VERSION, "\n");
    return result;
  } catch (const CLI::Error& e) {
    const std::string problem = absl::StrReplaceAll(Explain(app, e), {{"\n", " "}});
    if (check_config->count() == 0) return absl::InvalidArgumentError(problem);
    result.action = CommandLine::Action::kCheckConfig;
    result.problems = ConfigFileProblems(app);
    const bool known = std::any_of(result.problems.begin(), result.problems.end(),
                                   [&](const std::string& line) { return absl::EndsWith(line, problem); });
    if (!known) result.problems.insert(result.problems.begin(), problem);
    return result;
  }

  absl::StatusOr<std::string> password = StorePassword(password_file);
  if (check_config->count() > 0) {
    result.action = CommandLine::Action::kCheckConfig;
    result.text = EffectiveSettings(app);
    if (!password.ok()) result.problems.emplace_back(password.status().message());
    return result;
  }
  if (!password.ok()) return password.status();
  server.store.password = *std::move(password);
  if (healthcheck->count() > 0) {
    result.action = CommandLine::Action::kCheckHealth;
    if (result.health_address.empty()) result.health_address = DefaultHealthAddress(server);
  }
  return result;
}

}  // namespace normd::app
