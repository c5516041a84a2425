#ifndef NORMD_SERVER_SERVICE_SHARED_MEMORY_SERVICE_H_
#define NORMD_SERVER_SERVICE_SHARED_MEMORY_SERVICE_H_

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "normd/v1/shared_memory_service.grpc.pb.h"
#include "server/base/mutex.h"
#include "server/service/unary_call.h"
#include "server/shm/region_registry.h"

namespace normd::service {

// FAILED_PRECONDITION, naming the flag: what a call gets that needs shared memory where it is off.
absl::Status SharedMemoryIsOff();

// normd.v1.SharedMemoryService over a registry of regions. A session ends with its stream: when the client ends it,
// when its connection goes, and when the server stops. Thread-safe.
class SharedMemoryServiceImpl final : public v1::SharedMemoryService::CallbackService {
 public:
  // Both outlive the service. `regions` is null if shared memory is off; then every method is FAILED_PRECONDITION.
  SharedMemoryServiceImpl(shm::RegionRegistry* regions, CallObserver* observer)
      : regions_(regions), observer_(observer) {}

  // Ends every session and opens no more, so that their streams do not hold up the server's end. Calls that use a
  // region go on.
  void Shutdown();

  grpc::ServerWriteReactor<v1::OpenSessionResponse>* OpenSession(grpc::CallbackServerContext* context,
                                                                 const v1::OpenSessionRequest* request) override;
  grpc::ServerUnaryReactor* RegisterRegion(grpc::CallbackServerContext* context,
                                           const v1::RegisterRegionRequest* request,
                                           v1::RegisterRegionResponse* response) override;
  grpc::ServerUnaryReactor* UnregisterRegion(grpc::CallbackServerContext* context,
                                             const v1::UnregisterRegionRequest* request,
                                             v1::UnregisterRegionResponse* response) override;
  grpc::ServerUnaryReactor* ListRegions(grpc::CallbackServerContext* context, const v1::ListRegionsRequest* request,
                                        v1::ListRegionsResponse* response) override;

 private:
  class SessionStream;

  shm::RegionRegistry* const regions_;
  CallObserver* const observer_;
  base::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  absl::flat_hash_set<SessionStream*> streams_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace normd::service

#endif  // NORMD_SERVER_SERVICE_SHARED_MEMORY_SERVICE_H_
