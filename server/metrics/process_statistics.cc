#include "server/metrics/process_statistics.h"

#include <sys/resource.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <system_error>

namespace normd::metrics {
namespace {

double Seconds(const timeval& time) {
  return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
}

}  // namespace

v1::ProcessStatistics ReadProcessStatistics() {
  v1::ProcessStatistics process;
  int64_t virtual_pages = 0;
  int64_t resident_pages = 0;
  std::ifstream("/proc/self/statm") >> virtual_pages >> resident_pages;
  const auto page_bytes = static_cast<int64_t>(sysconf(_SC_PAGESIZE));
  process.set_virtual_bytes(virtual_pages * page_bytes);
  process.set_resident_bytes(resident_pages * page_bytes);
  rusage usage{};
  if (getrusage(RUSAGE_SELF, &usage) == 0) process.set_cpu_seconds(Seconds(usage.ru_utime) + Seconds(usage.ru_stime));
  std::error_code error;
  std::filesystem::directory_iterator fd("/proc/self/fd", error);
  int64_t open = 0;
  for (; !error && fd != std::filesystem::directory_iterator(); fd.increment(error)) ++open;
  // One of them reads the folder.
  process.set_open_fds(open > 0 ? open - 1 : 0);
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) process.set_max_fds(static_cast<int64_t>(limit.rlim_cur));
  return process;
}

}  // namespace normd::metrics
