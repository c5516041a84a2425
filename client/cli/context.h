#ifndef NORMD_CLIENT_CLI_CONTEXT_H_
#define NORMD_CLIENT_CLI_CONTEXT_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "client/cli/printer.h"
#include "normd/client.h"

namespace normd::cli {

// What the command line said, and what the verbs share. A verb's callback stores the work in `action`, so that nothing
// runs before the whole line has been understood.
struct Context {
  // Options of every verb.
  std::string server = "127.0.0.1:50051";
  std::string output = "table";
  std::string timeout = "30s";
  bool tls = false;
  // Any of them means `tls`.
  TlsOptions tls_files;
  // Empty: what the environment says. A token itself stands in no option, since everybody on the machine can read
  // those.
  std::string token_file;

  // The layer that the line names, for hints; may be empty.
  std::string layer;
  std::function<absl::Status()> action;
  // Set by the verbs that write a tensor to stdout: what is printed goes to stderr then.
  bool stdout_is_data = false;

  // What the options of every verb, and the variables NORMD_TOKEN_FILE and NORMD_TOKEN, ask of a client.
  ClientOptions client_options() const;
  // The connection to `server`, made when it is first asked for.
  Client& client();
  // Whether client() has been asked for: what failed before that is a matter of this machine's files.
  bool called_server() const { return client_ != nullptr; }
  // Made to `output`, for stdout or, with stdout_is_data, stderr.
  Printer& printer();

 private:
  std::unique_ptr<Client> client_;
  std::unique_ptr<Printer> printer_;
};

// "5s", "500ms", "1m30s"; a plain number counts seconds. Nothing else, NaN included.
absl::Status ParseDuration(const std::string& text, absl::Duration* duration);
// The same, and nothing that is not above 0.
absl::Status ParseTimeout(const std::string& text, absl::Duration* timeout);

}  // namespace normd::cli

#endif  // NORMD_CLIENT_CLI_CONTEXT_H_
