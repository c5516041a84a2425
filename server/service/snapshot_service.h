#ifndef NORMD_SERVER_SERVICE_SNAPSHOT_SERVICE_H_
#define NORMD_SERVER_SERVICE_SNAPSHOT_SERVICE_H_

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "normd/v1/snapshot_service.grpc.pb.h"
#include "server/registry/snapshots.h"
#include "server/service/blocking_stream.h"
#include "server/service/unary_call.h"

namespace normd::service {

// normd.v1.SnapshotService over the snapshots of a registry. Thread-safe.
class SnapshotServiceImpl final : public v1::SnapshotService::CallbackService {
 public:
  // Both outlive the service. A backup on its way stands in a folder of its own, whose path begins with
  // `scratch_prefix`.
  SnapshotServiceImpl(registry::Snapshots* snapshots, std::string scratch_prefix, CallObserver* observer)
      : snapshots_(snapshots), scratch_prefix_(std::move(scratch_prefix)), observer_(observer) {}

  grpc::ServerUnaryReactor* CreateSnapshot(grpc::CallbackServerContext* context,
                                           const v1::CreateSnapshotRequest* request,
                                           v1::CreateSnapshotResponse* response) override;
  grpc::ServerUnaryReactor* ListSnapshots(grpc::CallbackServerContext* context, const v1::ListSnapshotsRequest* request,
                                          v1::ListSnapshotsResponse* response) override;
  grpc::ServerUnaryReactor* RestoreSnapshot(grpc::CallbackServerContext* context,
                                            const v1::RestoreSnapshotRequest* request,
                                            v1::RestoreSnapshotResponse* response) override;
  grpc::ServerUnaryReactor* DeleteSnapshot(grpc::CallbackServerContext* context,
                                           const v1::DeleteSnapshotRequest* request,
                                           v1::DeleteSnapshotResponse* response) override;
  grpc::ServerWriteReactor<v1::BackupResponse>* Backup(grpc::CallbackServerContext* context,
                                                       const v1::BackupRequest* request) override;
  grpc::ServerReadReactor<v1::RestoreBackupRequest>* RestoreBackup(grpc::CallbackServerContext* context,
                                                                   v1::RestoreBackupResponse* response) override;

 private:
  absl::Status SendBackup(grpc::CallbackServerContext* context, BlockingWriteStream<v1::BackupResponse>* stream);
  absl::Status ReceiveBackup(grpc::CallbackServerContext* context, BlockingReadStream<v1::RestoreBackupRequest>* stream,
                             v1::RestoreBackupResponse* response);

  registry::Snapshots* const snapshots_;
  const std::string scratch_prefix_;
  CallObserver* const observer_;
};

}  // namespace normd::service

#endif  // NORMD_SERVER_SERVICE_SNAPSHOT_SERVICE_H_
