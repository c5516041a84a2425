#include "server/service/admin_service.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace normd::service {
namespace {

constexpr int kDefaultLayers = 100;
constexpr int kMostLayers = 10'000;

}  // namespace

grpc::ServerUnaryReactor* AdminServiceImpl::GetStatistics(grpc::CallbackServerContext* context,
                                                          const v1::GetStatisticsRequest* request,
                                                          v1::GetStatisticsResponse* response) {
  return HandleUnary(context, "GetStatistics", "", request, response, observer_, [&]() -> absl::Status {
    // It names layers.
    absl::Status allowed = observer_->CallerOf(*context).CheckPrefix(access::Role::kRead, "");
    if (!allowed.ok()) return allowed;
    const int layers = request->max_layers();
    if (layers < 0 || layers > kMostLayers) {
      return absl::InvalidArgumentError(absl::StrCat("max_layers is ", layers, ", want 0 to ", kMostLayers));
    }
    administration_->FillStatistics(layers == 0 ? kDefaultLayers : layers, response->mutable_statistics());
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* AdminServiceImpl::GetLogLevel(grpc::CallbackServerContext* context,
                                                        const v1::GetLogLevelRequest* request,
                                                        v1::GetLogLevelResponse* response) {
  return HandleUnary(context, "GetLogLevel", "", request, response, observer_, [&]() -> absl::Status {
    absl::Status allowed = observer_->CallerOf(*context).CheckPrefix(access::Role::kAdmin, "");
    if (!allowed.ok()) return allowed;
    response->set_level(administration_->log_level());
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* AdminServiceImpl::SetLogLevel(grpc::CallbackServerContext* context,
                                                        const v1::SetLogLevelRequest* request,
                                                        v1::SetLogLevelResponse* response) {
  return HandleUnary(context, "SetLogLevel", "", request, response, observer_, [&]() -> absl::Status {
    absl::Status allowed = observer_->CallerOf(*context).CheckPrefix(access::Role::kAdmin, "");
    if (!allowed.ok()) return allowed;
    const v1::LogLevel level = request->level();
    if (level == v1::LOG_LEVEL_UNSPECIFIED || !v1::LogLevel_IsValid(level)) {
      return absl::InvalidArgumentError(absl::StrCat("level is ", static_cast<int>(level),
                                                     ", want LOG_LEVEL_DEBUG, LOG_LEVEL_INFO, LOG_LEVEL_WARN or "
                                                     "LOG_LEVEL_ERROR"));
    }
    response->set_previous_level(administration_->log_level());
    administration_->set_log_level(level);
    return absl::OkStatus();
  });
}

}  // namespace normd::service
