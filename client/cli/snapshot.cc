#include <memory>
#include <string>
#include <vector>

#include "client/cli/restore_flags.h"
#include "client/cli/verbs.h"

namespace normd::cli {
namespace {

struct Arguments {
  std::string name;
  std::string prefix;
  RestoreSelection selection;
  CallOptions call;
};

std::shared_ptr<Arguments> AddNamed(CLI::App* verb) {
  auto arguments = std::make_shared<Arguments>();
  verb->add_option("snapshot", arguments->name, "Name of the snapshot")->required();
  return arguments;
}

void AddCreate(CLI::App* parent, Context* context) {
  CLI::App* verb = parent->add_subcommand("create", "Keep layers as they are now, all at one moment");
  const auto arguments = AddNamed(verb);
  AddSelectionFlags(verb, &arguments->selection.selection);
  AddRequestId(verb, &arguments->call.request_id);
  verb->callback([arguments, context] {
    context->action = [arguments, context] {
      const absl::StatusOr<Snapshot> snapshot =
          context->client().CreateSnapshot(arguments->name, arguments->selection.selection, arguments->call);
      if (!snapshot.ok()) return snapshot.status();
      context->printer().PrintSnapshots({*snapshot});
      return absl::OkStatus();
    };
  });
}

void AddList(CLI::App* parent, Context* context) {
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* verb = parent->add_subcommand("list", "List the snapshots by name");
  verb->add_option("--prefix", arguments->prefix, "Only names that start with this");
  verb->callback([arguments, context] {
    context->action = [arguments, context] {
      const absl::StatusOr<std::vector<Snapshot>> snapshots = context->client().ListSnapshots(arguments->prefix);
      if (!snapshots.ok()) return snapshots.status();
      context->printer().PrintSnapshots(*snapshots);
      return absl::OkStatus();
    };
  });
}

void AddSnapshotRestore(CLI::App* parent, Context* context) {
  CLI::App* verb = parent->add_subcommand("restore", "Bring layers back as they were, all in one step");
  const auto arguments = AddNamed(verb);
  AddRestoreFlags(verb, &arguments->selection);
  AddRequestId(verb, &arguments->call.request_id);
  verb->callback([arguments, context] {
    context->action = [arguments, context] {
      const absl::StatusOr<int64_t> layers =
          context->client().RestoreSnapshot(arguments->name, arguments->selection, arguments->call);
      if (!layers.ok()) return layers.status();
      context->printer().PrintRestored(arguments->name, *layers);
      return absl::OkStatus();
    };
  });
}

void AddDelete(CLI::App* parent, Context* context) {
  CLI::App* verb = parent->add_subcommand("delete", "Delete a snapshot; the layers stay");
  const auto arguments = AddNamed(verb);
  AddRequestId(verb, &arguments->call.request_id);
  verb->callback([arguments, context] {
    context->action = [arguments, context] {
      absl::Status status = context->client().DeleteSnapshot(arguments->name, arguments->call);
      if (status.ok()) context->printer().PrintDeleted(arguments->name);
      return status;
    };
  });
}

}  // namespace

void AddSnapshot(CLI::App* parent, Context* context) {
  CLI::App* snapshot = parent->add_subcommand("snapshot", "Create, list, restore and delete named snapshots");
  snapshot->require_subcommand(1);
  AddCreate(snapshot, context);
  AddList(snapshot, context);
  AddSnapshotRestore(snapshot, context);
  AddDelete(snapshot, context);
}

}  // namespace normd::cli
