#ifndef NORMD_TESTS_SERVER_STORE_FAULTY_FILE_SYSTEM_H_
#define NORMD_TESTS_SERVER_STORE_FAULTY_FILE_SYSTEM_H_

#include <gtest/gtest.h>
#include <sqlite3.h>

#include <algorithm>
#include <atomic>
#include <map>

namespace normd::tests {

// SQLite's view of the file system, with faults: the system's own methods, but writes and syncs fail on demand.
class FaultyFileSystem {
 public:
  static constexpr const char* kName = "normd-faulty";

  // Code that every write (sync, truncation) of any file fails with; SQLITE_OK: none does.
  static inline std::atomic<int> write_error = SQLITE_OK;
  static inline std::atomic<int> sync_error = SQLITE_OK;
  static inline std::atomic<int> truncate_error = SQLITE_OK;
  // Of the bytes of a write that fails so many are written all the same.
  static inline std::atomic<int> bytes_before_error = 0;
  // Files are opened to be read only, as where the system says that they may be.
  static inline std::atomic<bool> read_only = false;

  static void Register() {
    static const bool once = [] {
      sqlite3_vfs* const system = sqlite3_vfs_find(nullptr);
      static sqlite3_vfs faulty = *system;
      faulty.zName = kName;
      faulty.xOpen = [](sqlite3_vfs*, const char* name, sqlite3_file* file, int flags, int* out_flags) {
        sqlite3_vfs* const real = sqlite3_vfs_find(nullptr);
        if (read_only) flags = (flags & ~(SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE)) | SQLITE_OPEN_READONLY;
        const int code = real->xOpen(real, name, file, flags, out_flags);
        if (code != SQLITE_OK || file->pMethods == nullptr) return code;
        file->pMethods = &Wrap(file->pMethods)->methods;
        return code;
      };
      return sqlite3_vfs_register(&faulty, 0) == SQLITE_OK;
    }();
    ASSERT_TRUE(once);
    write_error = SQLITE_OK;
    sync_error = SQLITE_OK;
    truncate_error = SQLITE_OK;
    bytes_before_error = 0;
    read_only = false;
  }

 private:
  // First, so that a file's methods lead to it.
  struct Wrapped {
    sqlite3_io_methods methods;
    const sqlite3_io_methods* original;
  };

  static const sqlite3_io_methods* Original(sqlite3_file* file) {
    return reinterpret_cast<const Wrapped*>(file->pMethods)->original;
  }

  // Databases and journals have methods of their own.
  static const Wrapped* Wrap(const sqlite3_io_methods* original) {
    static std::map<const sqlite3_io_methods*, Wrapped> wrapped;
    const auto [found, added] = wrapped.try_emplace(original, Wrapped{*original, original});
    found->second.methods.xWrite = [](sqlite3_file* file, const void* data, int size, sqlite3_int64 offset) {
      if (write_error == SQLITE_OK) return Original(file)->xWrite(file, data, size, offset);
      const int written = std::min(size, bytes_before_error.load());
      if (written > 0) Original(file)->xWrite(file, data, written, offset);
      return write_error.load();
    };
    found->second.methods.xTruncate = [](sqlite3_file* file, sqlite3_int64 size) {
      return truncate_error != SQLITE_OK ? truncate_error.load() : Original(file)->xTruncate(file, size);
    };
    found->second.methods.xSync = [](sqlite3_file* file, int flags) {
      return sync_error != SQLITE_OK ? sync_error.load() : Original(file)->xSync(file, flags);
    };
    return &found->second;
  }
};

}  // namespace normd::tests

#endif  // NORMD_TESTS_SERVER_STORE_FAULTY_FILE_SYSTEM_H_
