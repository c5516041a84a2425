#ifndef NORMD_SERVER_STORE_DURABILITY_H_
#define NORMD_SERVER_STORE_DURABILITY_H_

namespace normd::store {

// What an update survives once StateStore::Write has returned.
enum class Durability {
  // A kill of the process, not a loss of power or a crash of the system.
  kProcess,
  // These too: every Write waits for the disk.
  kPower,
  // As kProcess, and a loss of power takes no more than what was written since the last Sync.
  kPeriodic,
};

}  // namespace normd::store

#endif  // NORMD_SERVER_STORE_DURABILITY_H_
