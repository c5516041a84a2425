#ifndef NORMD_CLIENT_CLI_BENCH_JSON_H_
#define NORMD_CLIENT_CLI_BENCH_JSON_H_

#include "client/cli/bench_report.h"
#include "client/cli/state_json.h"

namespace normd::cli {

// All of a report. Latencies are in microseconds, megabytes are 10^6 bytes of elements; p99_9 is null where there are
// too few calls for it, every latency where there is none.
Json ToJson(const BenchReport& report);

}  // namespace normd::cli

#endif  // NORMD_CLIENT_CLI_BENCH_JSON_H_
