#include "server/service/shared_memory_service.h"

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/service/status_conversion.h"

namespace normd::service {
namespace {

// Runs `handler`, a function () -> absl::Status, unless shared memory is off.
template <typename Request, typename Response, typename Handler>
grpc::ServerUnaryReactor* Handle(grpc::CallbackServerContext* context, absl::string_view method, const Request* request,
                                 Response* response, CallObserver* observer, const shm::RegionRegistry* regions,
                                 Handler handler) {
  return HandleUnary(context, method, "", request, response, observer,
                     [&]() -> absl::Status { return regions == nullptr ? SharedMemoryIsOff() : handler(); });
}

}  // namespace

absl::Status SharedMemoryIsOff() {
  return absl::FailedPreconditionError("shared memory is off; start the server with --shared-memory");
}

// One OpenSession stream, and so one session. Deletes itself when gRPC is done with it. States: writing its one
// message, waiting, finished; `mutex_` of the service guards them.
class SharedMemoryServiceImpl::SessionStream final : public grpc::ServerWriteReactor<v1::OpenSessionResponse> {
 public:
  // `refused` is not OK: ends at once.
  SessionStream(SharedMemoryServiceImpl* service, const absl::Status& refused) : service_(service) {
    const base::MutexLock lock(&service_->mutex_);
    service_->streams_.insert(this);
    if (service_->stopping_) {
      Proceed();
      return;
    }
    const absl::Status off = service_->regions_ == nullptr ? SharedMemoryIsOff() : refused;
    absl::StatusOr<shm::RegionRegistry::Session> session =
        off.ok() ? service_->regions_->OpenSession() : absl::StatusOr<shm::RegionRegistry::Session>(off);
    if (!session.ok()) {
      End(ToGrpcStatus(session.status()));
      return;
    }
    response_.set_session(session->id);
    response_.set_key(session->key.value());
    writing_ = true;
    StartWrite(&response_);
  }

  // Ends the stream if the server stops. REQUIRES: the lock is held.
  void Proceed() {
    if (writing_ || !service_->stopping_) return;
    End(grpc::Status(grpc::UNAVAILABLE, "the server is stopping"));
  }

  void OnWriteDone(bool ok) override {
    if (!ok) EndSession();
    const base::MutexLock lock(&service_->mutex_);
    writing_ = false;
    if (ok) {
      Proceed();
    } else {
      End(grpc::Status(grpc::UNAVAILABLE, "the connection is gone"));
    }
  }

  void OnCancel() override {
    EndSession();  // Without the lock: unmapping takes its time.
    const base::MutexLock lock(&service_->mutex_);
    End(grpc::Status::CANCELLED);
  }

  void OnDone() override {
    {
      const base::MutexLock lock(&service_->mutex_);
      service_->streams_.erase(this);
    }
    delete this;
  }

 private:
  void EndSession() {
    if (!response_.session().empty()) service_->regions_->EndSession(response_.session());
  }
  // The regions first: when the client sees the end they are gone.
  void End(const grpc::Status& status) {
    if (finished_) return;
    finished_ = true;
    EndSession();
    Finish(status);
  }

  SharedMemoryServiceImpl* const service_;
  v1::OpenSessionResponse response_;
  bool writing_ = false;
  bool finished_ = false;
};

void SharedMemoryServiceImpl::Shutdown() {
  const base::MutexLock lock(&mutex_);
  stopping_ = true;
  for (SessionStream* stream : streams_) stream->Proceed();
}

grpc::ServerWriteReactor<v1::OpenSessionResponse>* SharedMemoryServiceImpl::OpenSession(
    grpc::CallbackServerContext* context, const v1::OpenSessionRequest* /*request*/) {
  return new SessionStream(this, TakeCall(observer_->CallerOf(*context)));
}

grpc::ServerUnaryReactor* SharedMemoryServiceImpl::RegisterRegion(grpc::CallbackServerContext* context,
                                                                  const v1::RegisterRegionRequest* request,
                                                                  v1::RegisterRegionResponse* response) {
  return Handle(context, "RegisterRegion", request, response, observer_, regions_, [&]() -> absl::Status {
    const absl::StatusOr<std::string> region =
        regions_->Register(request->session(), request->name(), request->size_bytes());
    if (region.ok()) response->set_region(*region);
    return region.status();
  });
}

grpc::ServerUnaryReactor* SharedMemoryServiceImpl::UnregisterRegion(grpc::CallbackServerContext* context,
                                                                    const v1::UnregisterRegionRequest* request,
                                                                    v1::UnregisterRegionResponse* response) {
  return Handle(context, "UnregisterRegion", request, response, observer_, regions_,
                [&]() -> absl::Status { return regions_->Unregister(request->session(), request->region()); });
}

grpc::ServerUnaryReactor* SharedMemoryServiceImpl::ListRegions(grpc::CallbackServerContext* context,
                                                               const v1::ListRegionsRequest* request,
                                                               v1::ListRegionsResponse* response) {
  return Handle(context, "ListRegions", request, response, observer_, regions_, [&]() -> absl::Status {
    const absl::StatusOr<std::vector<shm::RegionRegistry::RegionInfo>> infos = regions_->List(request->session());
    if (!infos.ok()) return infos.status();
    for (const shm::RegionRegistry::RegionInfo& info : *infos) {
      v1::SharedMemoryRegion* const region = response->add_regions();
      region->set_region(info.id);
      region->set_name(info.name);
      region->set_size_bytes(info.size_bytes);
      region->set_lost(info.lost);
    }
    return absl::OkStatus();
  });
}

}  // namespace normd::service
