#include "server/service/open_inference_service.h"

#include <climits>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/layer/layer_error.h"
#include "server/service/open_inference_call.h"
#include "server/service/streams.h"
#include "server/service/tensor_unary.h"

namespace normd::service {
namespace {

constexpr absl::string_view kPlatform = "normd_batch_norm";

using SnapshotPtr = registry::LayerRegistry::SnapshotPtr;

void SetTensor(absl::string_view name, int64_t num_channels,
               ::inference::ModelMetadataResponse::TensorMetadata* tensor) {
  tensor->set_name(std::string(name));
  tensor->set_datatype("FP32");
  tensor->add_shape(-1);
  tensor->add_shape(num_channels);
}

template <typename Tensor>
void SetTensor(absl::string_view name, int64_t num_channels, Tensor* tensor) {
  tensor->set_name(std::string(name));
  tensor->set_data_type(::inference::TYPE_FP32);
  tensor->add_dims(-1);
  tensor->add_dims(num_channels);
}

}  // namespace

void OpenInferenceService::Stop() {
  stopping_ = true;
  open_streams_.Stop();
}

grpc::ServerUnaryReactor* OpenInferenceService::ServerLive(grpc::CallbackServerContext* context,
                                                           const ::inference::ServerLiveRequest* request,
                                                           ::inference::ServerLiveResponse* response) {
  return HandleUnary(context, "ServerLive", "", request, response, observer_, [&] {
    response->set_live(true);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* OpenInferenceService::ServerReady(grpc::CallbackServerContext* context,
                                                            const ::inference::ServerReadyRequest* request,
                                                            ::inference::ServerReadyResponse* response) {
  return HandleUnary(context, "ServerReady", "", request, response, observer_, [&] {
    response->set_ready(!stopping_);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* OpenInferenceService::ModelReady(grpc::CallbackServerContext* context,
                                                           const ::inference::ModelReadyRequest* request,
                                                           ::inference::ModelReadyResponse* response) {
  return HandleUnary(context, "ModelReady", request->name(), request, response, observer_, [&]() -> absl::Status {
    absl::StatusOr<SnapshotPtr> version = FindModelVersion(*registry_, request->name(), request->version());
    if (absl::IsInvalidArgument(version.status())) return version.status();
    response->set_ready(version.ok() && !stopping_);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* OpenInferenceService::ServerMetadata(grpc::CallbackServerContext* context,
                                                               const ::inference::ServerMetadataRequest* request,
                                                               ::inference::ServerMetadataResponse* response) {
  return HandleUnary(context, "ServerMetadata", "", request, response, observer_, [&] {
    response->set_name("normd");
    response->set_version(NORMD_VERSION);
    for (const char* extension :
         {"binary_tensor_data", "model_configuration", "model_repository", "parameters", "statistics"}) {
      response->add_extensions(extension);
    }
    if (regions_.enabled()) response->add_extensions("system_shared_memory");
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* OpenInferenceService::ModelMetadata(grpc::CallbackServerContext* context,
                                                              const ::inference::ModelMetadataRequest* request,
                                                              ::inference::ModelMetadataResponse* response) {
  return HandleUnary(context, "ModelMetadata", request->name(), request, response, observer_, [&]() -> absl::Status {
    absl::StatusOr<SnapshotPtr> version = FindModelVersion(*registry_, request->name(), request->version());
    if (!version.ok()) return version.status();
    absl::StatusOr<std::shared_ptr<registry::LayerEntry>> entry = registry_->Find(request->name());
    if (!entry.ok()) return entry.status();
    const layer::LayerSnapshot& snapshot = **version;
    response->set_name(snapshot.name);
    for (const int64_t number : (*entry)->Versions()) response->add_versions(absl::StrCat(number));
    response->set_platform(std::string(kPlatform));
    SetTensor("x", snapshot.config->num_channels, response->add_inputs());
    SetTensor("y", snapshot.config->num_channels, response->add_outputs());
    auto& properties = *response->mutable_properties();
    properties["content_hash"] = snapshot.content_hash;
    properties["preset"] = snapshot.preset;
    properties["num_batches_tracked"] = absl::StrCat(snapshot.statistics->num_batches_tracked);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* OpenInferenceService::ModelConfig(grpc::CallbackServerContext* context,
                                                            const ::inference::ModelConfigRequest* request,
                                                            ::inference::ModelConfigResponse* response) {
  return HandleUnary(context, "ModelConfig", request->name(), request, response, observer_, [&]() -> absl::Status {
    absl::StatusOr<SnapshotPtr> version = FindModelVersion(*registry_, request->name(), request->version());
    if (!version.ok()) return version.status();
    ::inference::ModelConfig* const config = response->mutable_config();
    config->set_name((*version)->name);
    config->set_platform(std::string(kPlatform));
    config->set_backend("normd");
    SetTensor("x", (*version)->config->num_channels, config->add_input());
    SetTensor("y", (*version)->config->num_channels, config->add_output());
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* OpenInferenceService::ModelInfer(grpc::CallbackServerContext* context,
                                                           const grpc::ByteBuffer* request,
                                                           grpc::ByteBuffer* response) {
  const UnaryCall call(context, "ModelInfer", static_cast<int64_t>(request->Length()), &statistics_);
  return HandleTensorCall(call, context_, request, response,
                          std::make_shared<OpenInferenceCall>(context_.call, regions_));
}

OpenInferenceService::RawStream* OpenInferenceService::ModelStreamInfer(grpc::CallbackServerContext* context) {
  return NewModelInferStream(context, context_, regions_, &open_streams_);
}

grpc::ServerUnaryReactor* OpenInferenceService::ModelStatistics(grpc::CallbackServerContext* context,
                                                                const ::inference::ModelStatisticsRequest* request,
                                                                ::inference::ModelStatisticsResponse* response) {
  return HandleUnary(context, "ModelStatistics", request->name(), request, response, observer_, [&]() -> absl::Status {
    if (!request->version().empty()) {
      return absl::InvalidArgumentError(absl::StrCat(layer::LayerPrefix(request->name()),
                                                     "version is set, want none: statistics are of all versions"));
    }
    absl::StatusOr<::inference::ModelStatisticsResponse> got =
        statistics_.Get(request->name(), observer_->CallerOf(*context));
    if (!got.ok()) return got.status();
    *response = *std::move(got);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* OpenInferenceService::RepositoryIndex(grpc::CallbackServerContext* context,
                                                                const ::inference::RepositoryIndexRequest* request,
                                                                ::inference::RepositoryIndexResponse* response) {
  return HandleUnary(context, "RepositoryIndex", "", request, response, observer_, [&]() -> absl::Status {
    if (!request->repository_name().empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("repository_name has ", request->repository_name().size(),
                       " bytes, want none: there is one repository, which holds all layers"));
    }
    const access::Caller caller = observer_->CallerOf(*context);
    for (const SnapshotPtr& layer : registry_->List("", "", INT_MAX).layers) {
      if (!caller.Allows(access::Role::kRead, layer->name)) continue;
      ::inference::RepositoryIndexResponse::ModelIndex* const model = response->add_models();
      model->set_name(layer->name);
      model->set_version(absl::StrCat(layer->version));
      model->set_state("READY");
    }
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* OpenInferenceService::SystemSharedMemoryStatus(
    grpc::CallbackServerContext* context, const ::inference::SystemSharedMemoryStatusRequest* request,
    ::inference::SystemSharedMemoryStatusResponse* response) {
  return HandleUnary(context, "SystemSharedMemoryStatus", "", request, response, observer_, [&]() -> absl::Status {
    absl::StatusOr<::inference::SystemSharedMemoryStatusResponse> regions = regions_.List(request->name());
    if (!regions.ok()) return regions.status();
    *response = *std::move(regions);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* OpenInferenceService::SystemSharedMemoryRegister(
    grpc::CallbackServerContext* context, const ::inference::SystemSharedMemoryRegisterRequest* request,
    ::inference::SystemSharedMemoryRegisterResponse* response) {
  return HandleUnary(context, "SystemSharedMemoryRegister", "", request, response, observer_,
                     [&] { return regions_.Register(*request); });
}

grpc::ServerUnaryReactor* OpenInferenceService::SystemSharedMemoryUnregister(
    grpc::CallbackServerContext* context, const ::inference::SystemSharedMemoryUnregisterRequest* request,
    ::inference::SystemSharedMemoryUnregisterResponse* response) {
  return HandleUnary(context, "SystemSharedMemoryUnregister", "", request, response, observer_,
                     [&] { return regions_.Unregister(request->name()); });
}

}  // namespace normd::service
