#ifndef NORMD_SERVER_SERVICE_ADMIN_SERVICE_H_
#define NORMD_SERVER_SERVICE_ADMIN_SERVICE_H_

#include "normd/v1/admin_service.grpc.pb.h"
#include "server/service/unary_call.h"

namespace normd::service {

// What the server tells and lets be changed. Thread-safe; must not block.
class Administration {
 public:
  virtual ~Administration() = default;
  virtual void FillStatistics(int max_layers, v1::ServerStatistics* statistics) = 0;
  virtual v1::LogLevel log_level() const = 0;
  // `level` is a known one.
  virtual void set_log_level(v1::LogLevel level) = 0;
};

// normd.v1.AdminService. Thread-safe.
class AdminServiceImpl final : public v1::AdminService::CallbackService {
 public:
  // Both outlive the service.
  AdminServiceImpl(Administration* administration, CallObserver* observer)
      : administration_(administration), observer_(observer) {}

  grpc::ServerUnaryReactor* GetStatistics(grpc::CallbackServerContext* context, const v1::GetStatisticsRequest* request,
                                          v1::GetStatisticsResponse* response) override;
  grpc::ServerUnaryReactor* GetLogLevel(grpc::CallbackServerContext* context, const v1::GetLogLevelRequest* request,
                                        v1::GetLogLevelResponse* response) override;
  grpc::ServerUnaryReactor* SetLogLevel(grpc::CallbackServerContext* context, const v1::SetLogLevelRequest* request,
                                        v1::SetLogLevelResponse* response) override;

 private:
  Administration* const administration_;
  CallObserver* const observer_;
};

}  // namespace normd::service

#endif  // NORMD_SERVER_SERVICE_ADMIN_SERVICE_H_
