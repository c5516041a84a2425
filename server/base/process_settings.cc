#include "server/base/process_settings.h"

#include <malloc.h>
#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>

#include "absl/synchronization/mutex.h"

namespace normd::base {

void KeepFreedMemory(int cores) {
  // A message of some megabytes that is mapped afresh costs ten times the copy in page faults.
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, 2147483647);
  mallopt(M_TOP_PAD, 64 << 20);
  // gRPC's threads take turns in receiving, and each keeps what it once received in its arena: of the usual eight for a
  // core every one grows to the largest messages. One for two cores: calls of 8 MB, two cores, 116 MiB resident instead
  // of 268 and more, 1.1 times as many calls; small calls as many.
  if (std::getenv("MALLOC_ARENA_MAX") == nullptr) mallopt(M_ARENA_MAX, std::max(1, cores / 2));
}

void TrustLockOrder() {
  // Debian builds Abseil with assertions. Its mutexes, which gRPC locks dozens of times in a call, then look for
  // deadlocks in a graph of the whole process, under one lock, and end the process where they find what looks like one.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
}

absl::Status ScheduleAsBatch() {
  const sched_param no_priority = {};
  if (sched_setscheduler(0, SCHED_BATCH, &no_priority) == 0) return absl::OkStatus();
  return absl::ErrnoToStatus(errno, "sched_setscheduler(SCHED_BATCH)");
}

}  // namespace normd::base
