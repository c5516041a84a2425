#include "client/cli/context.h"

#include <cmath>
#include <iostream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"

namespace normd::cli {

Client& Context::client() {
  if (client_ == nullptr) {
    ClientOptions options;
    // The command line was refused if this does not parse.
    (void)ParseTimeout(timeout, &options.timeout);
    client_ = Client::Connect(server, options);
  }
  return *client_;
}

Printer& Context::printer() {
  if (printer_ == nullptr) {
    std::ostream* out = stdout_is_data ? &std::cerr : &std::cout;
    printer_ = output == "json" ? MakeJsonPrinter(out) : MakeTablePrinter(out);
  }
  return *printer_;
}

absl::Status ParseTimeout(const std::string& text, absl::Duration* timeout) {
  double seconds = 0;
  if (absl::SimpleAtod(text, &seconds)) {
    // absl::Seconds would take NaN for infinity.
    *timeout = std::isnan(seconds) ? absl::ZeroDuration() : absl::Seconds(seconds);
  } else if (!absl::ParseDuration(text, timeout)) {
    return absl::InvalidArgumentError(absl::StrCat("'", text, "' is no duration; try 5s, 500ms or 1m30s"));
  }
  if (!(*timeout > absl::ZeroDuration())) return absl::InvalidArgumentError("a timeout must be above 0");
  return absl::OkStatus();
}

}  // namespace normd::cli
