#include "server/shm/region.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <thread>

#include "server/shm/secret.h"
#include "tests/server/shm/shm_object.h"
#include "tests/status_matchers.h"

namespace normd::shm {
namespace {

using absl::StatusCode;
using tests::IsOk;
using tests::ShmObject;
using tests::StatusIs;

const std::string kKey = "0123456789abcdef0123456789abcdef";
constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
const int64_t kPage = sysconf(_SC_PAGESIZE);

Identity Self() { return Identity::OfProcess(); }

// As a client would make it, with the key in front.
struct Keyed : ShmObject {
  explicit Keyed(int64_t bytes, mode_t mode = 0600) : ShmObject(bytes, mode) { Write(0, kKey); }
};

std::unique_ptr<Region> MustOpen(const ShmObject& object, int64_t bytes) {
  auto region = Region::Open(object.name(), bytes, kKey, Self());
  EXPECT_THAT(region, IsOk());
  return *std::move(region);
}

TEST(Region, NamesAreThoseOfShmOpen) {
  const struct {
    const char* what;
    std::string name;
    bool ok;
  } cases[] = {
      {"plain", "/a", true},
      {"longest", "/" + std::string(254, 'x'), true},
      {"dots inside", "/a..b", true},
      {"not ASCII", "/\xc3\xa4", true},
      {"empty", "", false},
      {"slash alone", "/", false},
      {"no slash", "a", false},
      {"two slashes", "//a", false},
      {"slash inside", "/a/b", false},
      {"out of the directory", "/../etc/passwd", false},
      {"the directory", "/.", false},
      {"its parent", "/..", false},
      {"NUL inside", std::string("/a\0b", 4), false},
      {"too long", "/" + std::string(255, 'x'), false},
  };
  for (const auto& c : cases) {
    if (c.ok) {
      EXPECT_THAT(Region::CheckName(c.name), IsOk()) << c.what;
      EXPECT_THAT(Region::Open(c.name, 64, kKey, Self()), StatusIs(StatusCode::kNotFound, "No such file")) << c.what;
    } else {
      EXPECT_THAT(Region::Open(c.name, 64, kKey, Self()), StatusIs(StatusCode::kInvalidArgument, "want a slash"))
          << c.what;
    }
  }
}

TEST(Region, ReadsAndWritesWhatTheClientMapped) {
  Keyed object(1000);
  const auto region = MustOpen(object, 1000);
  EXPECT_EQ(region->name(), object.name());
  EXPECT_EQ(region->size_bytes(), 1000);
  object.Write(100, "from the client");
  NORMD_ASSERT_OK_AND_ASSIGN(char* const data, region->Resolve(100, 900, 4));
  EXPECT_EQ(std::string(data, 15), "from the client");
  std::memcpy(data + 885, "from the server", 15);
  EXPECT_EQ(object.Read(985, 15), "from the server");
  EXPECT_THAT(region->CheckNotLost(), IsOk());
}

TEST(Region, TheSizeIsThatOfTheObjectAtMost) {
  Keyed object(5000);
  EXPECT_THAT(Region::Open(object.name(), 5000, kKey, Self()), IsOk());
  EXPECT_THAT(Region::Open(object.name(), 64, kKey, Self()), IsOk());
  for (const int64_t bytes : {int64_t{5001}, kMax}) {
    EXPECT_THAT(Region::Open(object.name(), bytes, kKey, Self()),
                StatusIs(StatusCode::kOutOfRange, "has 5000 bytes, want"));
  }
  for (const int64_t bytes : {int64_t{63}, int64_t{0}, int64_t{-1}, std::numeric_limits<int64_t>::min()}) {
    EXPECT_THAT(Region::Open(object.name(), bytes, kKey, Self()),
                StatusIs(StatusCode::kInvalidArgument, "want at least 64"));
  }
}

TEST(Region, WithoutTheKeyNothingIsMappedOrSaid) {
  Keyed object(5000);
  std::string almost = kKey;
  almost.back() = 'e';
  for (const std::string& key : {almost, std::string(), kKey.substr(1), kKey + "0"}) {
    EXPECT_THAT(Region::Open(object.name(), 5000, key, Self()), StatusIs(StatusCode::kPermissionDenied, "key"));
    EXPECT_THAT(Region::Open(object.name(), 6000, key, Self()), StatusIs(StatusCode::kPermissionDenied, "key"))
        << "the size is not for strangers";
  }
  // Too short for a key.
  for (const int64_t bytes : {0, 31}) {
    ShmObject small(bytes);
    EXPECT_THAT(Region::Open(small.name(), 64, std::string(32, '\0'), Self()),
                StatusIs(StatusCode::kPermissionDenied, "key"));
  }
}

TEST(Region, BelongsToTheServersUserOrIsSharedWithItsGroup) {
  const gid_t gid = getegid();
  const uid_t other = geteuid() + 1;
  const struct {
    const char* what;
    mode_t mode;
    Identity self;
    const char* denied;  // Null: allowed.
  } cases[] = {
      {"own", 0600, {.uid = geteuid()}, nullptr},
      {"own, everybody may read", 0644, {.uid = geteuid()}, nullptr},
      {"own, everybody may write", 0602, {.uid = geteuid()}, "everybody may write"},
      {"own, everybody may do everything", 0666, {.uid = geteuid(), .groups = {gid}}, "everybody may write"},
      {"another's", 0600, {.uid = other}, "belongs to user"},
      {"another's, everybody may write", 0666, {.uid = other}, "everybody may write"},
      {"another's, for his group", 0660, {.uid = other, .groups = {gid + 1, gid + 2}}, "belongs to user"},
      {"another's, for our group", 0660, {.uid = other, .groups = {gid + 1, gid}}, nullptr},
      {"another's, for our group to read", 0640, {.uid = other, .groups = {gid}}, "belongs to user"},
      {"another's, for our group to write", 0620, {.uid = other, .groups = {gid}}, "belongs to user"},
      {"another's, our group may not", 0600, {.uid = other, .groups = {gid}}, "belongs to user"},
  };
  for (const auto& c : cases) {
    Keyed object(64, c.mode);
    const auto region = Region::Open(object.name(), 64, kKey, c.self);
    if (c.denied == nullptr) {
      EXPECT_THAT(region, IsOk()) << c.what;
    } else {
      EXPECT_THAT(region, StatusIs(StatusCode::kPermissionDenied, c.denied)) << c.what;
    }
  }
}

TEST(Region, OwnershipIsCheckedOnEveryUse) {
  Keyed object(64);
  const auto region = MustOpen(object, 64);
  EXPECT_THAT(region->Resolve(0, 64, 1), IsOk());
  ASSERT_EQ(fchmod(object.fd(), 0666), 0);
  EXPECT_THAT(region->Resolve(0, 64, 1), StatusIs(StatusCode::kPermissionDenied, "everybody may write"));
  ASSERT_EQ(fchmod(object.fd(), 0600), 0);
  EXPECT_THAT(region->Resolve(0, 64, 1), IsOk());
}

TEST(Region, TheProcessKnowsItsGroups) {
  const Identity self = Identity::OfProcess();
  EXPECT_EQ(self.uid, geteuid());
  EXPECT_THAT(self.groups, ::testing::Contains(getegid()));
}

// Things in the directory of shared memory that are none. Opening must neither follow nor wait.
TEST(Region, OtherFilesAreNoSharedMemory) {
  const std::string name = "/normd-test-other-" + std::to_string(getpid());
  const std::string path = "/dev/shm" + name;
  const auto open = [&] { return Region::Open(name, 64, kKey, Self()); };
  const auto matches = StatusIs(StatusCode::kInvalidArgument, "no shared-memory object");

  Keyed target(64);
  ASSERT_EQ(symlink(("/dev/shm" + target.name()).c_str(), path.c_str()), 0);
  EXPECT_THAT(open(), matches) << "link";
  std::filesystem::remove(path);
  ASSERT_EQ(mkdir(path.c_str(), 0700), 0);
  EXPECT_THAT(open(), matches) << "directory";
  std::filesystem::remove(path);
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  EXPECT_THAT(open(), matches) << "pipe";
  std::filesystem::remove(path);
}

// Opening would wait up to 45 s for the client to give its lease up.
TEST(Region, AFileLeaseHoldsNothingUp) {
  signal(SIGIO, SIG_IGN);  // Tells the holder.
  Keyed object(64);
  ASSERT_EQ(fcntl(object.fd(), F_SETLEASE, F_WRLCK), 0);
  EXPECT_THAT(Region::Open(object.name(), 64, kKey, Self()), StatusIs(StatusCode::kInvalidArgument, "lease"));
  fcntl(object.fd(), F_SETLEASE, F_UNLCK);
}

TEST(Region, RangesAreCheckedWithoutOverflow) {
  Keyed object(1024);
  const auto region = MustOpen(object, 1000);  // Less than there is.
  const struct {
    int64_t offset;
    int64_t bytes;
    int64_t alignment;
    const char* error;  // Null: fine.
  } cases[] = {
      {0, 1000, 8, nullptr},
      {0, 0, 1, nullptr},
      {1000, 0, 1, nullptr},
      {999, 1, 1, nullptr},
      {8, 992, 8, nullptr},
      {0, 1001, 1, "leave the region"},
      {1, 1000, 1, "leave the region"},
      {1000, 1, 1, "leave the region"},
      {1001, 0, 1, "leave the region"},
      {-1, 10, 1, "leave the region"},
      {-8, 16, 8, "leave the region"},
      {0, -1, 1, "leave the region"},
      {kMax, kMax, 1, "leave the region"},
      {kMax, 1, 1, "leave the region"},
      {8, kMax, 1, "leave the region"},
      {kMax - 7, 8, 8, "leave the region"},
      {std::numeric_limits<int64_t>::min(), 8, 8, "leave the region"},
      {std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::min(), 8, "leave the region"},
      {4, 8, 8, "no multiple of 8"},
      {2, 8, 4, "no multiple of 4"},
      {1, 8, 2, "no multiple of 2"},
  };
  for (const auto& c : cases) {
    const auto data = region->Resolve(c.offset, c.bytes, c.alignment);
    if (c.error == nullptr) {
      EXPECT_THAT(data, IsOk()) << c.offset << ' ' << c.bytes;
    } else {
      EXPECT_THAT(data, StatusIs(StatusCode::kInvalidArgument, c.error)) << c.offset << ' ' << c.bytes;
    }
  }
}

TEST(Region, CutShortBeforeUse) {
  Keyed object(10 * kPage);
  const auto region = MustOpen(object, 10 * kPage);
  object.Truncate(10 * kPage - 1);
  EXPECT_FALSE(region->lost()) << "nobody looked";
  EXPECT_THAT(region->Resolve(0, 64, 1), StatusIs(StatusCode::kDataLoss, "cut short"));
  EXPECT_TRUE(region->lost());
  object.Truncate(10 * kPage);
  EXPECT_THAT(region->Resolve(0, 64, 1), StatusIs(StatusCode::kDataLoss, "register it anew"))
      << "what is there now is another thing";
  EXPECT_THAT(region->CheckNotLost(), StatusIs(StatusCode::kDataLoss));
  const auto anew = MustOpen(object, 10 * kPage);
  EXPECT_THAT(anew->Resolve(0, 64, 1), IsOk());
}

TEST(Region, CutShortAfterUseInsideAPage) {
  Keyed object(100);
  const auto region = MustOpen(object, 100);
  NORMD_ASSERT_OK_AND_ASSIGN(char* const data, region->Resolve(0, 100, 1));
  object.Truncate(99);
  data[99] = 'x';  // Raises nothing, and is gone.
  EXPECT_FALSE(region->lost());
  EXPECT_THAT(region->CheckNotLost(), StatusIs(StatusCode::kDataLoss));
}

// A thread is in the middle of it when the object shrinks. It ends only because the fault was caught.
TEST(Region, CutShortWhileItIsRead) {
  Keyed object(64 * kPage);
  const auto region = MustOpen(object, 64 * kPage);
  NORMD_ASSERT_OK_AND_ASSIGN(char* const data, region->Resolve(0, 64 * kPage, 1));
  const int64_t faults = SigbusGuard::NumFaults();
  std::atomic<bool> reading = false;
  std::thread reader([&] {
    int sum = 0;
    while (!region->lost()) {
      for (int64_t i = 0; i < 64 * kPage; i += 64) sum += static_cast<volatile char*>(data)[i];
      reading = true;
    }
    EXPECT_NE(sum, -1);
  });
  while (!reading) std::this_thread::yield();
  object.Truncate(kPage);
  reader.join();
  EXPECT_GT(SigbusGuard::NumFaults(), faults);
  EXPECT_THAT(region->CheckNotLost(), StatusIs(StatusCode::kDataLoss));
}

TEST(Region, CutShortWhileItIsWritten) {
  Keyed object(64 * kPage);
  const auto region = MustOpen(object, 64 * kPage);
  NORMD_ASSERT_OK_AND_ASSIGN(char* const data, region->Resolve(0, 64 * kPage, 1));
  const int64_t faults = SigbusGuard::NumFaults();
  std::atomic<bool> writing = false;
  std::thread writer([&] {
    while (!region->lost()) {
      std::memset(data, 'x', static_cast<size_t>(64 * kPage));
      writing = true;
    }
  });
  while (!writing) std::this_thread::yield();
  object.Truncate(0);
  writer.join();
  EXPECT_GT(SigbusGuard::NumFaults(), faults);
  EXPECT_THAT(region->CheckNotLost(), StatusIs(StatusCode::kDataLoss));
  EXPECT_EQ(object.NumMappings(), 0) << "the object is let go";
}

TEST(Region, GoesOnWithoutItsName) {
  Keyed object(100);
  const auto region = MustOpen(object, 100);
  object.Unlink();
  NORMD_ASSERT_OK_AND_ASSIGN(char* const data, region->Resolve(64, 36, 1));
  std::memcpy(data, "still here", 10);
  EXPECT_THAT(region->CheckNotLost(), IsOk());
  EXPECT_EQ(object.Read(64, 10), "still here");
  EXPECT_THAT(Region::Open(object.name(), 100, kKey, Self()), StatusIs(StatusCode::kNotFound, object.name()));
}

TEST(Region, LeavesNothingBehind) {
  const auto count_descriptors = [] {
    return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), std::filesystem::directory_iterator());
  };
  Keyed object(100);
  const auto descriptors = count_descriptors();
  auto region = MustOpen(object, 100);
  EXPECT_EQ(object.NumMappings(), 1);
  EXPECT_EQ(count_descriptors(), descriptors + 1);
  region.reset();
  EXPECT_EQ(object.NumMappings(), 0);
  EXPECT_THAT(Region::Open(object.name(), 101, kKey, Self()), StatusIs(StatusCode::kOutOfRange));
  EXPECT_THAT(Region::Open(object.name(), 100, "", Self()), StatusIs(StatusCode::kPermissionDenied));
  EXPECT_EQ(object.NumMappings(), 0);
  EXPECT_EQ(count_descriptors(), descriptors);
}

TEST(Region, KnowsItsObjectByMoreThanItsName) {
  Keyed a(100);
  Keyed b(100);
  const auto first = MustOpen(a, 100);
  EXPECT_TRUE(first->SameObject(*MustOpen(a, 64)));
  EXPECT_FALSE(first->SameObject(*MustOpen(b, 100)));
  // The same name, another object.
  a.Unlink();
  const int fd = shm_open(a.name().c_str(), O_RDWR | O_CREAT | O_EXCL, 0600);
  ASSERT_EQ(pwrite(fd, kKey.data(), kKey.size(), 0), 32);
  ASSERT_EQ(ftruncate(fd, 100), 0);
  close(fd);
  EXPECT_FALSE(first->SameObject(*MustOpen(a, 100)));
}

}  // namespace
}  // namespace normd::shm
