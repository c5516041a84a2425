#ifndef NORMD_SERVER_SHM_REGION_H_
#define NORMD_SERVER_SHM_REGION_H_

#include <sys/stat.h>
#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/shm/sigbus_guard.h"

namespace normd::shm {

// Smallest region: the key and something beside it.
inline constexpr int64_t kMinRegionBytes = 64;

// Whom a region must belong to, or be shared with.
struct Identity {
  uid_t uid = 0;
  std::vector<gid_t> groups = {};

  // Effective user, effective and supplementary groups.
  static Identity OfProcess();
};

// A POSIX shared-memory object that a client made, mapped for reading and writing. The client is not trusted: it may
// name any object, and change or cut short its own at any moment.
//
// What is checked, and what for:
// - The name has one slash, in front, and no NUL: nothing outside the directory of shared memory can be named.
// - The object is a regular file, opened without following links and without waiting: a link could lead out of that
//   directory, a pipe or a file lease could hold up the thread.
// - It belongs to `self`, or its mode lets one of the groups of `self` read and write: a server that may open
//   everything (root) touches only what was meant for it.
// - Others may not write: everybody on the host could change tensors under way, and so the statistics of a layer.
// - It begins with a key that only the client knows: the client could write to it, so nothing that the server does to
//   it is more than the client could do itself. Nobody can lend himself an object of the server's own user. Without a
//   key this is not asked.
// - It is as long as is said, now and on every use. SigbusGuard does the rest, as it may be cut short right after.
//
// Thread-safe. The mapping and one file descriptor live as long as the region.
class Region {
 public:
  // OK, or INVALID_ARGUMENT: `name` is none that shm_open(3) takes.
  static absl::Status CheckName(absl::string_view name);

  // Statuses: RegisterRegion in shared_memory_service.proto.
  static absl::StatusOr<std::unique_ptr<Region>> Open(const std::string& name, int64_t size_bytes,
                                                      std::optional<absl::string_view> key, const Identity& self);
  ~Region();
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;

  // Where `bytes` from `offset` are mapped. INVALID_ARGUMENT: the range leaves the region, or `offset` is no multiple
  // of `alignment` (>= 1, at most a page). DATA_LOSS: as CheckNotLost. PERMISSION_DENIED: the object was given to
  // another user or opened to everybody since.
  absl::StatusOr<char*> Resolve(int64_t offset, int64_t bytes, int64_t alignment) const;

  // DATA_LOSS once the object was found shorter than the region, by a look now or by a fault before; for good.
  absl::Status CheckNotLost() const;
  // The same, without the look.
  bool lost() const { return guard_->lost(); }

  const std::string& name() const { return name_; }
  int64_t size_bytes() const { return size_bytes_; }
  // Both mapped from the same object.
  bool SameObject(const Region& other) const { return device_ == other.device_ && inode_ == other.inode_; }

 private:
  Region(std::string name, int64_t size_bytes, Identity self, int fd, const struct stat& stat)
      : name_(std::move(name)),
        size_bytes_(size_bytes),
        self_(std::move(self)),
        fd_(fd),
        device_(stat.st_dev),
        inode_(stat.st_ino) {}
  absl::Status Map();
  absl::Status Lost() const;
  // DATA_LOSS, or what the object is now.
  absl::StatusOr<struct stat> Look() const;

  const std::string name_;
  const int64_t size_bytes_;
  const Identity self_;
  const int fd_;
  const dev_t device_;
  const ino_t inode_;
  // Null until Map is through.
  char* data_ = nullptr;
  std::unique_ptr<SigbusGuard> guard_;
};

}  // namespace normd::shm

#endif  // NORMD_SERVER_SHM_REGION_H_
