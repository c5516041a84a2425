#include "client/cpp/src/backup.h"

#include <grpcpp/client_context.h>
#include <grpcpp/support/sync_stream.h>

#include <chrono>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "client/cpp/src/convert.h"
#include "normd/v1/snapshot_service.pb.h"

namespace normd::internal {
namespace {

constexpr std::size_t kPieceBytes = 1 << 20;

// As long as the caller says; by default as long as it takes.
absl::Duration TimeoutOf(const CallOptions& options) { return options.timeout.value_or(absl::InfiniteDuration()); }

void SetDeadline(absl::Duration timeout, grpc::ClientContext* context) {
  if (timeout == absl::InfiniteDuration()) return;
  context->set_deadline(std::chrono::system_clock::now() + absl::ToChronoMicroseconds(timeout));
}

}  // namespace

absl::StatusOr<int64_t> Backup(Connection* connection, const BackupSink& sink, const CallOptions& options) {
  grpc::ClientContext context;
  SetDeadline(TimeoutOf(options), &context);
  const auto reader = connection->stub().snapshots()->Backup(&context, v1::BackupRequest());
  v1::BackupResponse response;
  int64_t total = -1;
  int64_t received = 0;
  absl::Status refused;
  while (refused.ok() && reader->Read(&response)) {
    if (total < 0) total = response.total_bytes();
    received += static_cast<int64_t>(response.data().size());
    refused = sink(response.data(), total);
  }
  if (!refused.ok()) context.TryCancel();
  const grpc::Status status = reader->Finish();
  if (!refused.ok()) return refused;
  if (!status.ok()) return connection->StreamFailure(status, TimeoutOf(options), "");
  if (received == total) return received;
  return absl::DataLossError(absl::StrCat("the backup has ", received, " bytes, want ", total));
}

absl::StatusOr<int64_t> RestoreBackup(Connection* connection, const BackupSource& source,
                                      const RestoreSelection& selection, const CallOptions& options) {
  grpc::ClientContext context;
  SetDeadline(TimeoutOf(options), &context);
  v1::RestoreBackupResponse response;
  const auto writer = connection->stub().snapshots()->RestoreBackup(&context, &response);
  v1::RestoreBackupRequest request;
  *request.mutable_selection() = ToProto(selection);
  absl::Status failed;
  while (true) {
    std::string* const piece = request.mutable_data();
    piece->resize(kPieceBytes);
    absl::StatusOr<std::size_t> size = source(absl::MakeSpan(*piece));
    failed = size.status();
    if (!failed.ok() || *size == 0) break;
    piece->resize(*size);
    if (!writer->Write(request)) break;
    request.clear_selection();
  }
  if (!failed.ok()) context.TryCancel();
  writer->WritesDone();
  const grpc::Status status = writer->Finish();
  if (!failed.ok()) return failed;
  if (!status.ok()) return connection->StreamFailure(status, TimeoutOf(options), "");
  return response.num_layers();
}

}  // namespace normd::internal
