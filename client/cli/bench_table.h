#ifndef NORMD_CLIENT_CLI_BENCH_TABLE_H_
#define NORMD_CLIENT_CLI_BENCH_TABLE_H_

#include <ostream>

#include "client/cli/bench_report.h"

namespace normd::cli {

// A report for people: what was run, calls by window, latencies by window and kind, errors, and what to make of it.
void PrintBenchTables(const BenchReport& report, std::ostream* out);

}  // namespace normd::cli

#endif  // NORMD_CLIENT_CLI_BENCH_TABLE_H_
