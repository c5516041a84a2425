#ifndef NORMD_SERVER_SERVICE_HEALTH_SERVICE_H_
#define NORMD_SERVER_SERVICE_HEALTH_SERVICE_H_

#include <grpcpp/support/server_callback.h>

#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "server/base/mutex.h"

namespace normd::service {

// grpc.health.v1.Health for a server whose services all live and die together. In place of the one that gRPC brings:
// its Watch streams stay open while the server drains, so that any watching client made every shutdown last until the
// deadline. Here they hear NOT_SERVING and end. Thread-safe.
class HealthService final : public grpc::health::v1::Health::CallbackService {
 public:
  // `services` are the names that are known besides "", the whole server.
  explicit HealthService(std::vector<std::string> services);
  ~HealthService() override;

  // From SERVING to NOT_SERVING, for good.
  void Shutdown();

 private:
  using Request = grpc::health::v1::HealthCheckRequest;
  using Response = grpc::health::v1::HealthCheckResponse;
  using Status = Response::ServingStatus;
  class Watcher;

  grpc::ServerUnaryReactor* Check(grpc::CallbackServerContext* context, const Request* request,
                                  Response* response) override;
  grpc::ServerWriteReactor<Response>* Watch(grpc::CallbackServerContext* context, const Request* request) override;
  Status StatusOf(const std::string& service) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::vector<std::string> services_;
  mutable base::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  absl::flat_hash_set<Watcher*> watchers_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace normd::service

#endif  // NORMD_SERVER_SERVICE_HEALTH_SERVICE_H_
