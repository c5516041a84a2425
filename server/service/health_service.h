#ifndef NORMD_SERVER_SERVICE_HEALTH_SERVICE_H_
#define NORMD_SERVER_SERVICE_HEALTH_SERVICE_H_

#include <google/protobuf/wrappers.pb.h>
#include <grpcpp/impl/service_type.h>
#include <grpcpp/support/server_callback.h>

#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "server/base/mutex.h"

namespace normd::service {

// grpc.health.v1.Health for a server whose services all live and die together. In place of the one that gRPC brings:
// its Watch streams stay open while the server drains, so that any watching client made every shutdown last until the
// deadline. Here they hear NOT_SERVING and end. Thread-safe.
class HealthService final : public grpc::Service {
 public:
  // `services` are the names that are known besides "", the whole server.
  explicit HealthService(std::vector<std::string> services);
  ~HealthService() override;

  // From SERVING to NOT_SERVING, for good.
  void Shutdown();

 private:
  // The messages by their wire format, since their stubs are not packaged: HealthCheckRequest is a string in field 1,
  // HealthCheckResponse an enum in field 1.
  using Request = google::protobuf::StringValue;
  using Response = google::protobuf::Int32Value;
  enum Status { kServing = 1, kNotServing = 2, kServiceUnknown = 3 };
  class Watcher;

  grpc::ServerUnaryReactor* Check(grpc::CallbackServerContext* context, const Request* request, Response* response);
  grpc::ServerWriteReactor<Response>* Watch(const Request* request);
  Status StatusOf(const std::string& service) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::vector<std::string> services_;
  mutable base::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  absl::flat_hash_set<Watcher*> watchers_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace normd::service

#endif  // NORMD_SERVER_SERVICE_HEALTH_SERVICE_H_
