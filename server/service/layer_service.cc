#include "server/service/layer_service.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "server/layer/layer_error.h"
#include "server/layer/layer_name.h"
#include "server/service/layer_conversion.h"
#include "server/service/page_token.h"

namespace normd::service {
namespace {

using SnapshotPtr = registry::LayerRegistry::SnapshotPtr;

constexpr int kDefaultPageSize = 100;
constexpr int kMaxPageSize = 1000;
// A page ends early when it would grow beyond this, so that it fits into the 4 MiB that gRPC clients take by default.
constexpr std::size_t kPageBytes = 3 << 20;

// Most methods answer with the layer as it is now.
template <typename Response>
absl::Status Answer(const absl::StatusOr<SnapshotPtr>& snapshot, Response* response) {
  if (snapshot.ok()) ToProto(**snapshot, v1::LAYER_VIEW_CONFIG, response->mutable_layer());
  return snapshot.status();
}

absl::Status CheckNotNegative(absl::string_view field, int64_t value) {
  if (value >= 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, " is ", value, ", want 0 or more"));
}

}  // namespace

grpc::ServerUnaryReactor* LayerServiceImpl::CreateLayer(grpc::CallbackServerContext* context,
                                                        const v1::CreateLayerRequest* request,
                                                        v1::CreateLayerResponse* response) {
  return HandleUnary(context, "CreateLayer", request->name(), request, response, observer_, [&]() -> absl::Status {
    if (absl::Status status = layer::ValidateName(request->name()); !status.ok()) return status;
    absl::StatusOr<layer::LayerConfig> config = MergeConfig(request->name(), request->preset(), request->config());
    if (!config.ok()) return config.status();
    registry::CreateLayerSpec spec;
    spec.name = request->name();
    spec.preset = request->preset();
    spec.config = *config;
    spec.initial_state = ToStateUpdate(request->initial_state());
    spec.request_id = request->request_id();
    return Answer(registry_->Create(spec), response);
  });
}

grpc::ServerUnaryReactor* LayerServiceImpl::GetLayer(grpc::CallbackServerContext* context,
                                                     const v1::GetLayerRequest* request,
                                                     v1::GetLayerResponse* response) {
  return HandleUnary(context, "GetLayer", request->name(), request, response, observer_, [&]() -> absl::Status {
    absl::StatusOr<v1::LayerView> view = ToLayerView(request->view());
    if (!view.ok()) return view.status();
    if (absl::Status status = CheckNotNegative("if_newer_than", request->if_newer_than()); !status.ok()) return status;
    absl::StatusOr<SnapshotPtr> snapshot = registry_->Get(request->name(), request->version());
    if (!snapshot.ok()) return snapshot.status();
    // Versions start at 1, so the default 0 is older than every one.
    response->set_not_modified((*snapshot)->version <= request->if_newer_than());
    ToProto(**snapshot, response->not_modified() ? v1::LAYER_VIEW_CONFIG : *view, response->mutable_layer());
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* LayerServiceImpl::ListLayers(grpc::CallbackServerContext* context,
                                                       const v1::ListLayersRequest* request,
                                                       v1::ListLayersResponse* response) {
  return HandleUnary(context, "ListLayers", "", request, response, observer_, [&]() -> absl::Status {
    absl::StatusOr<v1::LayerView> view = ToLayerView(request->view());
    if (!view.ok()) return view.status();
    if (absl::Status status = CheckNotNegative("page_size", request->page_size()); !status.ok()) return status;
    absl::StatusOr<std::string> after = DecodePageToken(request->page_token(), request->prefix());
    if (!after.ok()) return after.status();
    const int page_size = request->page_size() == 0 ? kDefaultPageSize : std::min(request->page_size(), kMaxPageSize);

    const access::Caller caller = observer_->CallerOf(*context);
    const registry::ListPage page = registry_->List(request->prefix(), *after, page_size, [&](absl::string_view name) {
      return caller.Allows(access::Role::kRead, name);
    });
    std::size_t bytes = 0;
    std::string last_name = page.last_name;
    for (const SnapshotPtr& snapshot : page.layers) {
      v1::Layer* layer = response->add_layers();
      ToProto(*snapshot, *view, layer);
      bytes += layer->ByteSizeLong();
      if (bytes > kPageBytes && response->layers_size() > 1) {
        response->mutable_layers()->RemoveLast();
        last_name = response->layers(response->layers_size() - 1).name();
        break;
      }
    }
    response->set_next_page_token(EncodePageToken(last_name));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* LayerServiceImpl::UpdateLayer(grpc::CallbackServerContext* context,
                                                        const v1::UpdateLayerRequest* request,
                                                        v1::UpdateLayerResponse* response) {
  return HandleUnary(context, "UpdateLayer", request->name(), request, response, observer_, [&]() -> absl::Status {
    if (absl::Status status = layer::ValidateName(request->name()); !status.ok()) return status;
    absl::StatusOr<registry::ConfigUpdate> update =
        ToConfigUpdate(request->name(), request->config(), request->update_mask());
    if (!update.ok()) return update.status();
    return Answer(registry_->Update(request->name(), *update, request->etag(), request->request_id()), response);
  });
}

grpc::ServerUnaryReactor* LayerServiceImpl::DeleteLayer(grpc::CallbackServerContext* context,
                                                        const v1::DeleteLayerRequest* request,
                                                        v1::DeleteLayerResponse* response) {
  return HandleUnary(context, "DeleteLayer", request->name(), request, response, observer_, [&]() -> absl::Status {
    return registry_->Delete(request->name(), request->etag(), request->request_id());
  });
}

grpc::ServerUnaryReactor* LayerServiceImpl::ResetStatistics(grpc::CallbackServerContext* context,
                                                            const v1::ResetStatisticsRequest* request,
                                                            v1::ResetStatisticsResponse* response) {
  return HandleUnary(context, "ResetStatistics", request->name(), request, response, observer_, [&]() -> absl::Status {
    return Answer(registry_->ResetStatistics(request->name(), request->expected_version(), request->request_id()),
                  response);
  });
}

grpc::ServerUnaryReactor* LayerServiceImpl::SetState(grpc::CallbackServerContext* context,
                                                     const v1::SetStateRequest* request,
                                                     v1::SetStateResponse* response) {
  return HandleUnary(context, "SetState", request->name(), request, response, observer_, [&]() -> absl::Status {
    if (absl::Status status = layer::ValidateName(request->name()); !status.ok()) return status;
    if (!request->has_state() && !request->reset_optimizer()) {
      return absl::InvalidArgumentError(absl::StrCat(layer::LayerPrefix(request->name()), "state is missing"));
    }
    layer::StateUpdate update = ToStateUpdate(request->state());
    update.reset_optimizer = request->reset_optimizer();
    return Answer(registry_->SetState(request->name(), update, request->expected_version(), request->request_id()),
                  response);
  });
}

grpc::ServerUnaryReactor* LayerServiceImpl::ForkLayer(grpc::CallbackServerContext* context,
                                                      const v1::ForkLayerRequest* request,
                                                      v1::ForkLayerResponse* response) {
  return HandleUnary(context, "ForkLayer", "", request, response, observer_, [&]() -> absl::Status {
    // Who shares gamma and beta changes those of the other.
    const access::Caller caller = observer_->CallerOf(*context);
    absl::Status allowed =
        caller.Check(request->share_affine() ? access::Role::kTrain : access::Role::kRead, request->name());
    if (allowed.ok()) allowed = caller.Check(access::Role::kTrain, request->new_name());
    if (!allowed.ok()) return allowed;
    return Answer(registry_->Fork({.name = request->name(),
                                   .new_name = request->new_name(),
                                   .version = request->version(),
                                   .share_affine = request->share_affine(),
                                   .reset_statistics = request->reset_statistics(),
                                   .request_id = request->request_id()}),
                  response);
  });
}

grpc::ServerWriteReactor<v1::WatchLayersResponse>* LayerServiceImpl::WatchLayers(
    grpc::CallbackServerContext* context, const v1::WatchLayersRequest* request) {
  const access::Caller caller = observer_->CallerOf(*context);
  return new WatchStream(context, caller, static_cast<int64_t>(request->ByteSizeLong()),
                         ToWatchSpec(*request, caller, *registry_), registry_, &watch_streams_, observer_);
}

}  // namespace normd::service
