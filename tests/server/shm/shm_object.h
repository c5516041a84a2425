#ifndef NORMD_TESTS_SERVER_SHM_SHM_OBJECT_H_
#define NORMD_TESTS_SERVER_SHM_SHM_OBJECT_H_

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <fstream>
#include <sstream>
#include <string>

namespace normd::tests {

// A shared-memory object as a client makes one, gone with this.
class ShmObject {
 public:
  explicit ShmObject(int64_t bytes, mode_t mode = 0600) {
    static int count = 0;
    name_ = "/normd-test-" + std::to_string(getpid()) + "-" + std::to_string(++count);
    fd_ = shm_open(name_.c_str(), O_RDWR | O_CREAT | O_EXCL, 0600);
    EXPECT_GE(fd_, 0);
    EXPECT_EQ(fchmod(fd_, mode), 0);
    Truncate(bytes);
  }
  ~ShmObject() {
    Unlink();
    close(fd_);
  }
  ShmObject(const ShmObject&) = delete;
  ShmObject& operator=(const ShmObject&) = delete;

  const std::string& name() const { return name_; }
  int fd() const { return fd_; }
  void Unlink() { shm_unlink(name_.c_str()); }
  void Truncate(int64_t bytes) { EXPECT_EQ(ftruncate(fd_, bytes), 0); }
  void Write(int64_t offset, const std::string& text) {
    EXPECT_EQ(pwrite(fd_, text.data(), text.size(), offset), static_cast<ssize_t>(text.size()));
  }
  std::string Read(int64_t offset, int64_t bytes) const {
    std::string text(static_cast<size_t>(bytes), '?');
    EXPECT_EQ(pread(fd_, text.data(), text.size(), offset), static_cast<ssize_t>(bytes));
    return text;
  }
  // Mappings of it in this process.
  int NumMappings() const {
    std::ifstream maps("/proc/self/maps");
    int count = 0;
    for (std::string line; std::getline(maps, line);) {
      // "... /dev/shm/NAME", with " (deleted)" behind it if so.
      count += (line + " ").find(name_ + " ") != std::string::npos;
    }
    return count;
  }

 private:
  std::string name_;
  int fd_ = -1;
};

}  // namespace normd::tests

#endif  // NORMD_TESTS_SERVER_SHM_SHM_OBJECT_H_
