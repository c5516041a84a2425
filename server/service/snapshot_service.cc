#include "server/service/snapshot_service.h"

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/service/layer_conversion.h"

namespace normd::service {
namespace {

// Below the 4 MiB that gRPC clients take by default.
constexpr std::size_t kPieceBytes = 1 << 20;

void Fill(const store::SnapshotInfo& info, v1::Snapshot* snapshot) {
  snapshot->set_name(info.name);
  snapshot->set_layer(info.layer);
  snapshot->set_prefix(info.prefix);
  snapshot->set_num_layers(info.num_layers);
  ToProto(info.create_time, snapshot->mutable_create_time());
}

registry::RestoreSelection FromProto(const v1::RestoreSelection& proto) {
  registry::RestoreSelection selection{.layer = proto.layer(), .prefix = proto.prefix(), .new_name = std::nullopt};
  if (proto.has_new_name()) selection.new_name = proto.new_name();
  return selection;
}

// An admin of what a snapshot, or a selection of one, holds.
absl::Status CheckAdmin(const access::Caller& caller, const std::string& layer, const std::string& prefix) {
  return layer.empty() ? caller.CheckPrefix(access::Role::kAdmin, prefix) : caller.Check(access::Role::kAdmin, layer);
}

// Also of what the layers become.
absl::Status CheckAdmin(const access::Caller& caller, const registry::RestoreSelection& selection) {
  absl::Status status = CheckAdmin(caller, selection.layer, selection.prefix);
  if (!status.ok() || !selection.new_name.has_value()) return status;
  return selection.layer.empty() ? CheckAdmin(caller, "", *selection.new_name)
                                 : CheckAdmin(caller, *selection.new_name, "");
}

// For a copy of everything.
absl::Status CheckAll(const access::Caller& caller) {
  absl::Status status = TakeCall(caller);
  return status.ok() ? caller.CheckPrefix(access::Role::kAdmin, "") : status;
}

// A folder of its own for one file, with which it goes.
class ScratchFile {
 public:
  static absl::StatusOr<std::unique_ptr<ScratchFile>> Make(const std::string& prefix) {
    std::string folder = prefix + "XXXXXX";
    if (mkdtemp(folder.data()) == nullptr) {
      return absl::UnavailableError(absl::StrCat("cannot make the folder ", folder, ": ", std::strerror(errno)));
    }
    return std::unique_ptr<ScratchFile>(new ScratchFile(folder));
  }
  ~ScratchFile() {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  ScratchFile(const ScratchFile&) = delete;
  ScratchFile& operator=(const ScratchFile&) = delete;

  std::string path() const { return folder_ + "/normd.db"; }

 private:
  explicit ScratchFile(std::string folder) : folder_(std::move(folder)) {}
  const std::string folder_;
};

// Tells the observer of a stream when it is over.
class StreamRecord {
 public:
  StreamRecord(const grpc::CallbackServerContext& context, absl::string_view method, CallObserver* observer)
      : context_(context), method_(method), observer_(observer), in_flight_(observer) {}

  absl::Status End(const absl::Status& status, int64_t request_bytes, int64_t response_bytes) const {
    observer_->OnCall(CallRecord{.method = method_,
                                 .layer = "",
                                 .request_id = "",
                                 .context = context_,
                                 .request_bytes = request_bytes,
                                 .response_bytes = response_bytes,
                                 .status = status,
                                 .duration = absl::FromChrono(std::chrono::steady_clock::now() - start_)});
    return status;
  }

 private:
  const grpc::CallbackServerContext& context_;
  const absl::string_view method_;
  CallObserver* const observer_;
  const CallInFlight in_flight_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace

grpc::ServerUnaryReactor* SnapshotServiceImpl::CreateSnapshot(grpc::CallbackServerContext* context,
                                                              const v1::CreateSnapshotRequest* request,
                                                              v1::CreateSnapshotResponse* response) {
  return HandleUnary(context, "CreateSnapshot", "", request, response, observer_, [&]() -> absl::Status {
    absl::Status allowed = CheckAdmin(observer_->CallerOf(*context), request->layer(), request->prefix());
    if (!allowed.ok()) return allowed;
    absl::StatusOr<store::SnapshotInfo> info = snapshots_->Create({.name = request->name(),
                                                                   .layer = request->layer(),
                                                                   .prefix = request->prefix(),
                                                                   .request_id = request->request_id()});
    if (info.ok()) Fill(*info, response->mutable_snapshot());
    return info.status();
  });
}

grpc::ServerUnaryReactor* SnapshotServiceImpl::ListSnapshots(grpc::CallbackServerContext* context,
                                                             const v1::ListSnapshotsRequest* request,
                                                             v1::ListSnapshotsResponse* response) {
  return HandleUnary(context, "ListSnapshots", "", request, response, observer_, [&] {
    const access::Caller caller = observer_->CallerOf(*context);
    for (const store::SnapshotInfo& info : snapshots_->List(request->prefix())) {
      if (!CheckAdmin(caller, info.layer, info.prefix).ok()) continue;
      Fill(info, response->add_snapshots());
    }
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* SnapshotServiceImpl::RestoreSnapshot(grpc::CallbackServerContext* context,
                                                               const v1::RestoreSnapshotRequest* request,
                                                               v1::RestoreSnapshotResponse* response) {
  return HandleUnary(context, "RestoreSnapshot", "", request, response, observer_, [&]() -> absl::Status {
    registry::RestoreSelection selection = FromProto(request->selection());
    const access::Caller caller = observer_->CallerOf(*context);
    const bool whole = selection.layer.empty() && selection.prefix.empty() && !selection.new_name.has_value();
    if (whole && !caller.CheckPrefix(access::Role::kAdmin, "").ok()) {
      // All that the snapshot holds, which may be no more than whoever calls is an admin of.
      absl::StatusOr<store::SnapshotInfo> info = snapshots_->Find(request->name());
      if (!info.ok()) return info.status();
      selection.layer = info->layer;
      selection.prefix = info->prefix;
    }
    if (absl::Status allowed = CheckAdmin(caller, selection); !allowed.ok()) return allowed;
    absl::StatusOr<int64_t> layers = snapshots_->Restore(request->name(), selection, request->request_id());
    if (layers.ok()) response->set_num_layers(*layers);
    return layers.status();
  });
}

grpc::ServerUnaryReactor* SnapshotServiceImpl::DeleteSnapshot(grpc::CallbackServerContext* context,
                                                              const v1::DeleteSnapshotRequest* request,
                                                              v1::DeleteSnapshotResponse* response) {
  return HandleUnary(context, "DeleteSnapshot", "", request, response, observer_, [&]() -> absl::Status {
    // One that is not there may have been deleted by the same request before.
    if (const absl::StatusOr<store::SnapshotInfo> info = snapshots_->Find(request->name()); info.ok()) {
      absl::Status allowed = CheckAdmin(observer_->CallerOf(*context), info->layer, info->prefix);
      if (!allowed.ok()) return allowed;
    }
    return snapshots_->Delete(request->name(), request->request_id());
  });
}

grpc::ServerWriteReactor<v1::BackupResponse>* SnapshotServiceImpl::Backup(grpc::CallbackServerContext* context,
                                                                          const v1::BackupRequest* /*request*/) {
  return new BlockingWriteStream<v1::BackupResponse>(
      [this, context](BlockingWriteStream<v1::BackupResponse>* stream) { return SendBackup(context, stream); });
}

absl::Status SnapshotServiceImpl::SendBackup(grpc::CallbackServerContext* context,
                                             BlockingWriteStream<v1::BackupResponse>* stream) {
  const StreamRecord record(*context, "Backup", observer_);
  absl::Status allowed = CheckAll(observer_->CallerOf(*context));
  if (!allowed.ok()) return record.End(allowed, 0, 0);
  absl::StatusOr<std::unique_ptr<ScratchFile>> scratch = ScratchFile::Make(scratch_prefix_);
  if (!scratch.ok()) return record.End(scratch.status(), 0, 0);
  const std::string path = (*scratch)->path();
  const absl::Status status = snapshots_->Backup(path, [&] { return CheckAlive(*context, "Backup"); });
  if (!status.ok()) return record.End(status, 0, 0);

  std::error_code error;
  const auto total = static_cast<int64_t>(std::filesystem::file_size(path, error));
  std::ifstream file(path, std::ios::binary);
  v1::BackupResponse response;
  response.set_total_bytes(total);
  int64_t sent = 0;
  while (!error && file && sent < total) {
    std::string* const piece = response.mutable_data();
    piece->resize(kPieceBytes);
    file.read(piece->data(), static_cast<std::streamsize>(piece->size()));
    piece->resize(static_cast<std::size_t>(file.gcount()));
    if (!stream->Write(response)) return record.End(absl::CancelledError("nobody reads the backup"), 0, sent);
    sent += static_cast<int64_t>(piece->size());
    response.clear_total_bytes();
  }
  if (sent == total && !error) return record.End(absl::OkStatus(), 0, sent);
  return record.End(absl::UnavailableError(absl::StrCat("cannot read the backup in ", path)), 0, sent);
}

grpc::ServerReadReactor<v1::RestoreBackupRequest>* SnapshotServiceImpl::RestoreBackup(
    grpc::CallbackServerContext* context, v1::RestoreBackupResponse* response) {
  return new BlockingReadStream<v1::RestoreBackupRequest>(
      [this, context, response](BlockingReadStream<v1::RestoreBackupRequest>* stream) {
        return ReceiveBackup(context, stream, response);
      });
}

absl::Status SnapshotServiceImpl::ReceiveBackup(grpc::CallbackServerContext* context,
                                                BlockingReadStream<v1::RestoreBackupRequest>* stream,
                                                v1::RestoreBackupResponse* response) {
  const StreamRecord record(*context, "RestoreBackup", observer_);
  absl::Status allowed = CheckAll(observer_->CallerOf(*context));
  if (!allowed.ok()) return record.End(allowed, 0, 0);
  absl::StatusOr<std::unique_ptr<ScratchFile>> scratch = ScratchFile::Make(scratch_prefix_);
  if (!scratch.ok()) return record.End(scratch.status(), 0, 0);
  registry::RestoreSelection selection;
  int64_t received = 0;
  {
    std::ofstream file((*scratch)->path(), std::ios::binary);
    v1::RestoreBackupRequest request;
    for (bool first = true; stream->Read(&request); first = false) {
      if (request.has_selection()) {
        if (!first) {
          return record.End(absl::InvalidArgumentError("the selection comes later than in the first message"), received,
                            0);
        }
        selection = FromProto(request.selection());
      }
      received += static_cast<int64_t>(request.data().size());
      file.write(request.data().data(), static_cast<std::streamsize>(request.data().size()));
      if (!file) {
        return record.End(absl::ResourceExhaustedError(absl::StrCat("cannot write byte ", received, " of the backup: ",
                                                                    std::strerror(errno), "; nothing has changed")),
                          received, 0);
      }
    }
    file.close();
    // Also how the stream of a cancelled call ends.
    if (absl::Status status = CheckAlive(*context, "RestoreBackup"); !status.ok()) {
      return record.End(status, received, 0);
    }
    if (received == 0) return record.End(absl::InvalidArgumentError("the backup is empty"), 0, 0);
  }
  absl::StatusOr<int64_t> layers = snapshots_->RestoreBackup((*scratch)->path(), selection);
  if (layers.ok()) response->set_num_layers(*layers);
  return record.End(layers.status(), received, static_cast<int64_t>(response->ByteSizeLong()));
}

}  // namespace normd::service
