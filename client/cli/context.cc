#include "client/cli/context.h"

#include <cmath>
#include <cstdlib>
#include <iostream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"

namespace normd::cli {
namespace {

std::string Variable(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? "" : value;
}

}  // namespace

ClientOptions Context::client_options() const {
  ClientOptions options;
  // The command line was refused if this does not parse.
  (void)ParseTimeout(timeout, &options.timeout);
  if (tls || !tls_files.root_certificates_file.empty() || !tls_files.certificate_chain_file.empty() ||
      !tls_files.private_key_file.empty() || !tls_files.server_name.empty()) {
    options.tls = tls_files;
  }
  options.token_file = token_file;
  if (token_file.empty()) {
    options.token_file = Variable("NORMD_TOKEN_FILE");
    options.token = Variable("NORMD_TOKEN");
  }
  return options;
}

Client& Context::client() {
  if (client_ == nullptr) client_ = Client::Connect(server, client_options());
  return *client_;
}

Printer& Context::printer() {
  if (printer_ == nullptr) {
    std::ostream* out = stdout_is_data ? &std::cerr : &std::cout;
    printer_ = output == "json" ? MakeJsonPrinter(out) : MakeTablePrinter(out);
  }
  return *printer_;
}

absl::Status ParseDuration(const std::string& text, absl::Duration* duration) {
  double seconds = 0;
  if (absl::SimpleAtod(text, &seconds)) {
    // absl::Seconds would take NaN for infinity.
    if (!std::isnan(seconds)) {
      *duration = absl::Seconds(seconds);
      return absl::OkStatus();
    }
  } else if (absl::ParseDuration(text, duration)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("'", text, "' is no duration; try 5s, 500ms or 1m30s"));
}

absl::Status ParseTimeout(const std::string& text, absl::Duration* timeout) {
  if (absl::Status status = ParseDuration(text, timeout); !status.ok()) return status;
  if (!(*timeout > absl::ZeroDuration())) return absl::InvalidArgumentError("a timeout must be above 0");
  return absl::OkStatus();
}

}  // namespace normd::cli
