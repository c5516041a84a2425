#ifndef NORMD_CLIENT_CLI_BENCH_LOAD_H_
#define NORMD_CLIENT_CLI_BENCH_LOAD_H_

#include <functional>

#include "client/cli/bench_options.h"
#include "client/cli/bench_stats.h"
#include "client/cli/bench_target.h"

namespace normd::cli {

// Looks at a run about fifty times a second, on the thread that waits for it. False: start no more calls.
using BenchWatch = std::function<bool(int64_t now_ns)>;

// Nanoseconds of the steady clock, which the timeline of a run is in.
int64_t SteadyNanoseconds();

// Calls `target` along `recorder`'s timeline as `options` say, and returns when every call that was started has ended.
// No thread per call: answers start the next calls (closed loop), or one thread keeps the schedule (open loop).
//
// Closed loop: a call that fails with UNAVAILABLE is followed by the next one at the next look at the run, lest a
// server that is gone be asked in a circle as fast as the machine can. Open loop: a call is due every 1/rate seconds,
// whatever became of those before; one that cannot be sent because MaxInFlight are under way, or before the end of the
// run, is recorded as not sent.
void RunBenchLoad(const BenchOptions& options, BenchTarget* target, BenchRecorder* recorder, const BenchWatch& watch);

}  // namespace normd::cli

#endif  // NORMD_CLIENT_CLI_BENCH_LOAD_H_
