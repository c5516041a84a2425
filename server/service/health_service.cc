#include "server/service/health_service.h"

#include <grpcpp/server_context.h>

#include <algorithm>
#include <optional>
#include <utility>

namespace normd::service {

// One Watch stream. Deletes itself when gRPC is done with it. States: idle, writing, finished; `mutex_` of the service
// guards them.
class HealthService::Watcher final : public grpc::ServerWriteReactor<Response> {
 public:
  Watcher(HealthService* health, std::string service) : health_(health), service_(std::move(service)) {
    const base::MutexLock lock(&health_->mutex_);
    health_->watchers_.insert(this);
    Proceed();
  }

  // Sends what the client does not know yet, then ends the stream if the server stops. REQUIRES: the lock is held.
  void Proceed() {
    if (writing_ || finished_) return;
    const Status status = health_->StatusOf(service_);
    if (sent_ != status) {
      sent_ = status;
      writing_ = true;
      response_.set_status(status);
      StartWrite(&response_);
    } else if (health_->stopping_) {
      End(grpc::Status(grpc::UNAVAILABLE, "the server is stopping"));
    }
  }

  void OnWriteDone(bool ok) override {
    const base::MutexLock lock(&health_->mutex_);
    writing_ = false;
    if (ok) {
      Proceed();
    } else {
      End(grpc::Status(grpc::UNAVAILABLE, "the connection is gone"));
    }
  }

  void OnCancel() override {
    const base::MutexLock lock(&health_->mutex_);
    End(grpc::Status::CANCELLED);
  }

  void OnDone() override {
    {
      const base::MutexLock lock(&health_->mutex_);
      health_->watchers_.erase(this);
    }
    delete this;
  }

 private:
  void End(const grpc::Status& status) {
    if (finished_) return;
    finished_ = true;
    Finish(status);
  }

  HealthService* const health_;
  const std::string service_;
  Response response_;
  std::optional<Status> sent_;
  bool writing_ = false;
  bool finished_ = false;
};

HealthService::HealthService(std::vector<std::string> services) : services_(std::move(services)) {}

HealthService::~HealthService() = default;

void HealthService::Shutdown() {
  const base::MutexLock lock(&mutex_);
  stopping_ = true;
  for (Watcher* watcher : watchers_) watcher->Proceed();
}

grpc::ServerUnaryReactor* HealthService::Check(grpc::CallbackServerContext* context, const Request* request,
                                               Response* response) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  const base::MutexLock lock(&mutex_);
  const Status status = StatusOf(request->service());
  response->set_status(status);
  reactor->Finish(status == Response::SERVICE_UNKNOWN
                      ? grpc::Status(grpc::NOT_FOUND, "no service '" + request->service() + "' on this server")
                      : grpc::Status::OK);
  return reactor;
}

grpc::ServerWriteReactor<HealthService::Response>* HealthService::Watch(grpc::CallbackServerContext* /*context*/,
                                                                        const Request* request) {
  return new Watcher(this, request->service());
}

HealthService::Status HealthService::StatusOf(const std::string& service) const {
  if (!service.empty() && std::find(services_.begin(), services_.end(), service) == services_.end()) {
    return Response::SERVICE_UNKNOWN;
  }
  return stopping_ ? Response::NOT_SERVING : Response::SERVING;
}

}  // namespace normd::service
