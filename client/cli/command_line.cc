#include "client/cli/command_line.h"

#include "client/cli/verbs.h"
#include "normd/version.h"

namespace normd::cli {
namespace {

// Who the server is, and who calls.
void AddSecurity(CLI::App* app, Context* context) {
  app->add_flag("--tls", context->tls, "Connect with TLS; --tls-ca and its like mean it, too")->envname("NORMD_TLS");
  app->add_option("--tls-ca", context->tls_files.root_certificates_file,
                  "PEM file of the authorities to trust (default: the system's)")
      ->envname("NORMD_TLS_CA")
      ->type_name(kFileType);
  app->add_option("--tls-cert", context->tls_files.certificate_chain_file,
                  "PEM file of the certificate to show to a server that asks for one")
      ->envname("NORMD_TLS_CERT")
      ->type_name(kFileType);
  app->add_option("--tls-key", context->tls_files.private_key_file, "PEM file of its key")
      ->envname("NORMD_TLS_KEY")
      ->type_name(kFileType);
  app->add_option("--tls-server-name", context->tls_files.server_name,
                  "Name in the server's certificate (default: the host of --server)")
      ->envname("NORMD_TLS_SERVER_NAME")
      ->type_name("NAME");
  app->add_option("--token-file", context->token_file,
                  "File with the token that says who calls (default: NORMD_TOKEN_FILE; NORMD_TOKEN is a token itself)")
      ->type_name(kFileType);
}

}  // namespace

CLI::Option* AddLayerName(CLI::App* verb, Context* context) {
  return verb->add_option("layer", context->layer, "Name of the layer, e.g. resnet50.layer1.0.bn1")
      ->required()
      ->type_name(kLayerType);
}

void AddRequestId(CLI::App* verb, std::string* request_id) {
  verb->add_option("--request-id", *request_id, "Makes a repetition of this call harmless (default: a fresh one)");
}

void AddCommandLine(CLI::App* app, Context* context) {
  app->description("Talks to a normd server: layers, training steps, inference, snapshots, backups.");
  app->footer("Exit codes: 0 done, 1 the call failed, 2 the command line is wrong.");
  app->require_subcommand(1);
  // Global options are understood behind the verb too. Verbs inherit this, so it comes before them.
  app->fallthrough();
  app->set_version_flag("--version", "normctl " + std::string(Version()));
  app->add_option("--server", context->server, "HOST:PORT or unix:PATH of the server")
      ->envname("NORMD_SERVER")
      ->capture_default_str();
  app->add_option("--output", context->output, "What to print")
      ->check(CLI::IsMember({"table", "json"}))
      ->capture_default_str();
  const auto is_timeout = [](const std::string& text) {
    absl::Duration timeout;
    return std::string(ParseTimeout(text, &timeout).message());
  };
  app->add_option("--timeout", context->timeout, "Longest time for a call, retries included, e.g. 5s or 500ms")
      ->check(CLI::Validator(is_timeout, ""))
      ->type_name("DURATION")
      ->capture_default_str();

  AddSecurity(app, context);

  CLI::App* layer = app->add_subcommand("layer", "Create, read, change and delete layers");
  layer->require_subcommand(1);
  AddLayerCreate(layer, context);
  AddLayerGet(layer, context);
  AddLayerList(layer, context);
  AddLayerUpdate(layer, context);
  AddLayerDelete(layer, context);
  AddLayerReset(layer, context);
  AddLayerSetState(layer, context);
  AddLayerFork(layer, context);
  AddLayerFreeze(layer, context);
  AddTrain(app, context);
  AddInfer(app, context);
  AddDenormalize(app, context);
  AddDescribe(app, context);
  AddWatch(app, context);
  AddSnapshot(app, context);
  AddBackup(app, context);
  AddRestore(app, context);
  AddBench(app, context);
  AddTop(app, context);
  AddLogLevel(app, context);
  AddHealth(app, context);
  AddToken(app, context);
  AddVersion(app, context);
  AddCompletion(app, context);
}

}  // namespace normd::cli
