#ifndef NORMD_SERVER_APP_ADMINISTRATION_H_
#define NORMD_SERVER_APP_ADMINISTRATION_H_

#include "server/app/logger.h"
#include "server/metrics/statistics_collector.h"
#include "server/service/admin_service.h"

namespace normd::app {

// What AdminService works on. Thread-safe.
class Administration final : public service::Administration {
 public:
  // Both outlive this.
  Administration(const metrics::StatisticsCollector* statistics, Logger* logger)
      : statistics_(statistics), logger_(logger) {}

  void FillStatistics(int max_layers, v1::ServerStatistics* statistics) override;
  v1::LogLevel log_level() const override;
  void set_log_level(v1::LogLevel level) override;

 private:
  const metrics::StatisticsCollector* const statistics_;
  Logger* const logger_;
};

}  // namespace normd::app

#endif  // NORMD_SERVER_APP_ADMINISTRATION_H_
