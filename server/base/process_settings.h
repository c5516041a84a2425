#ifndef NORMD_SERVER_BASE_PROCESS_SETTINGS_H_
#define NORMD_SERVER_BASE_PROCESS_SETTINGS_H_

#include "absl/status/status.h"

namespace normd::base {

// What libraries and the system are told once for the whole process, before its threads start.

// Lets glibc keep freed memory mapped, in few arenas: large messages come into pages that are there. `cores` is what
// the process may use. MALLOC_ARENA_MAX in the environment wins.
void KeepFreedMemory(int cores);

// Keeps Abseil's mutexes, which are gRPC's, from looking for deadlocks.
void TrustLockOrder();

// Has the system take the threads that the calling one starts from now on, and itself, as those of a batch job: one
// that wakes waits for the thread that has its core, instead of interrupting it. The errno's status: the system
// refuses.
absl::Status ScheduleAsBatch();

}  // namespace normd::base

#endif  // NORMD_SERVER_BASE_PROCESS_SETTINGS_H_
