#ifndef NORMD_SERVER_BASE_PROCESS_SETTINGS_H_
#define NORMD_SERVER_BASE_PROCESS_SETTINGS_H_

namespace normd::base {

// What libraries are told once for the whole process, before its threads start.

// Lets glibc keep freed memory mapped, in few arenas: large messages come into pages that are there. `cores` is what
// the process may use. MALLOC_ARENA_MAX in the environment wins.
void KeepFreedMemory(int cores);

// Keeps Abseil's mutexes, which are gRPC's, from looking for deadlocks.
void TrustLockOrder();

}  // namespace normd::base

#endif  // NORMD_SERVER_BASE_PROCESS_SETTINGS_H_
