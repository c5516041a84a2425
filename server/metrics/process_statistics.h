#ifndef NORMD_SERVER_METRICS_PROCESS_STATISTICS_H_
#define NORMD_SERVER_METRICS_PROCESS_STATISTICS_H_

#include "normd/v1/admin_service.pb.h"

namespace normd::metrics {

// What /proc says of this process; 0 where it cannot be read. start_time_seconds is left alone.
v1::ProcessStatistics ReadProcessStatistics();

}  // namespace normd::metrics

#endif  // NORMD_SERVER_METRICS_PROCESS_STATISTICS_H_
