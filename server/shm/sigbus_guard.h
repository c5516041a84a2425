#ifndef NORMD_SERVER_SHM_SIGBUS_GUARD_H_
#define NORMD_SERVER_SHM_SIGBUS_GUARD_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"

namespace normd::shm {

// Guards a mapping against SIGBUS, which the kernel raises when a page is touched that its file no longer has: another
// process cut the file short, or the file system is full. The computation that touched it goes on, in whatever thread
// it runs: the process's signal handler puts fresh zero pages in the place of the whole mapping, where reads find zeros
// and writes go nowhere, and marks the mapping lost. Who uses the mapping asks lost() before it believes what it read
// or says that something was written.
//
// The zero pages are memory of this process as soon as they are written to: at most the bytes of the mapping, until it
// is unmapped. Any other SIGBUS takes the way that it would have taken without the guard.
//
// Thread-safe. Order of calls: map, Watch, use, end of the use, destructor, unmap.
class SigbusGuard {
 public:
  // Most mappings that can be guarded at a time.
  static constexpr int kMaxMappings = 8192;

  // Guards `bytes` from `begin`, which is the start of a page; the rest of the last page is included. The first call
  // installs the handler, for good. RESOURCE_EXHAUSTED: kMaxMappings are guarded.
  static absl::StatusOr<std::unique_ptr<SigbusGuard>> Watch(char* begin, std::size_t bytes);
  // REQUIRES: nobody uses the mapping any more, and it is still mapped.
  ~SigbusGuard();
  SigbusGuard(const SigbusGuard&) = delete;
  SigbusGuard& operator=(const SigbusGuard&) = delete;

  // A page was missing, or MarkLost was called. Stays true.
  bool lost() const;
  void MarkLost();

  // How often a missing page was replaced in this process.
  static int64_t NumFaults();

 private:
  explicit SigbusGuard(int slot) : slot_(slot) {}

  const int slot_;
};

}  // namespace normd::shm

#endif  // NORMD_SERVER_SHM_SIGBUS_GUARD_H_
