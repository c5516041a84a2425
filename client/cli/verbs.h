#ifndef NORMD_CLIENT_CLI_VERBS_H_
#define NORMD_CLIENT_CLI_VERBS_H_

#include <CLI/CLI.hpp>
#include <string>

#include "client/cli/context.h"

// One function per verb, each in a file of its own: adds the verb to `parent`. `context` must outlive the app.
namespace normd::cli {

void AddLayerCreate(CLI::App* parent, Context* context);
void AddLayerGet(CLI::App* parent, Context* context);
void AddLayerList(CLI::App* parent, Context* context);
void AddLayerUpdate(CLI::App* parent, Context* context);
void AddLayerDelete(CLI::App* parent, Context* context);
void AddLayerReset(CLI::App* parent, Context* context);
void AddLayerSetState(CLI::App* parent, Context* context);
void AddLayerFork(CLI::App* parent, Context* context);
// freeze and unfreeze.
void AddLayerFreeze(CLI::App* parent, Context* context);
void AddTrain(CLI::App* parent, Context* context);
void AddInfer(CLI::App* parent, Context* context);
void AddDenormalize(CLI::App* parent, Context* context);
void AddDescribe(CLI::App* parent, Context* context);
void AddWatch(CLI::App* parent, Context* context);
void AddSnapshot(CLI::App* parent, Context* context);
void AddBackup(CLI::App* parent, Context* context);
void AddRestore(CLI::App* parent, Context* context);
void AddBench(CLI::App* parent, Context* context);
void AddTop(CLI::App* parent, Context* context);
void AddLogLevel(CLI::App* parent, Context* context);
void AddHealth(CLI::App* parent, Context* context);
void AddToken(CLI::App* parent, Context* context);
void AddVersion(CLI::App* parent, Context* context);
// Reads the finished tree of `root`, so it may come at any place in it.
void AddCompletion(CLI::App* root, Context* context);

// Positional and option types, as help and completion show them.
inline constexpr const char* kLayerType = "LAYER";
inline constexpr const char* kFileType = "FILE";

// The positional argument LAYER of most verbs.
CLI::Option* AddLayerName(CLI::App* verb, Context* context);
// --request-id of the mutations.
void AddRequestId(CLI::App* verb, std::string* request_id);

}  // namespace normd::cli

#endif  // NORMD_CLIENT_CLI_VERBS_H_
