#ifndef NORMD_CLIENT_CPP_SRC_SHARED_REGION_H_
#define NORMD_CLIENT_CPP_SRC_SHARED_REGION_H_

#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace normd::internal {

// A POSIX shared-memory object that this process made and has mapped. Its name is random and readable for this user
// alone; it begins with a key of the server's, by which that sees that who names it may write to it.
class SharedRegion {
 public:
  // With `capacity` bytes for data behind the key. All pages are taken at once: where shared memory is short that gives
  // an error here instead of a SIGBUS later. UNAVAILABLE: the system gave none. REQUIRES: a key of at most kDataOffset
  // bytes.
  static absl::StatusOr<std::unique_ptr<SharedRegion>> Create(std::size_t capacity, absl::string_view key);
  ~SharedRegion();
  SharedRegion(const SharedRegion&) = delete;
  SharedRegion& operator=(const SharedRegion&) = delete;

  // Where data stands, aligned to 64 bytes, and its offset in the object.
  char* data() const { return base_ + kDataOffset; }
  static constexpr std::size_t kDataOffset = 64;
  std::size_t capacity() const { return size_ - kDataOffset; }

  // Of the object: name as for shm_open, and size.
  const std::string& name() const { return name_; }
  std::size_t size() const { return size_; }

  // Removes the name, so that nothing is left behind whatever happens to this process; the memory stays.
  void Unlink();
  // Whether the object is still as long as it was made; what is beyond its end must not be touched.
  bool Intact() const;

 private:
  SharedRegion() = default;

  std::string name_;
  bool linked_ = false;
  int file_ = -1;
  char* base_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace normd::internal

#endif  // NORMD_CLIENT_CPP_SRC_SHARED_REGION_H_
