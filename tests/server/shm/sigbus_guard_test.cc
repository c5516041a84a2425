#include "server/shm/sigbus_guard.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <memory>
#include <thread>
#include <vector>

#include "tests/status_matchers.h"

namespace normd::shm {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

const size_t kPage = static_cast<size_t>(sysconf(_SC_PAGESIZE));

// A file in memory and a mapping of it.
class Mapping {
 public:
  explicit Mapping(size_t bytes) : bytes_(bytes), fd_(memfd_create("normd-test", MFD_CLOEXEC)) {
    EXPECT_EQ(ftruncate(fd_, static_cast<off_t>(bytes)), 0);
    void* const mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
    EXPECT_NE(mapped, MAP_FAILED);
    data_ = static_cast<char*>(mapped);
  }
  ~Mapping() {
    munmap(data_, bytes_);
    close(fd_);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  void Truncate(size_t bytes) { EXPECT_EQ(ftruncate(fd_, static_cast<off_t>(bytes)), 0); }
  char* data() { return data_; }
  size_t bytes() const { return bytes_; }
  volatile char& operator[](size_t i) { return data_[i]; }

 private:
  const size_t bytes_;
  const int fd_;
  char* data_;
};

std::unique_ptr<SigbusGuard> Watch(Mapping& mapping) {
  auto guard = SigbusGuard::Watch(mapping.data(), mapping.bytes());
  EXPECT_THAT(guard, tests::IsOk());
  return *std::move(guard);
}

TEST(SigbusGuard, PutsZerosInThePlaceOfTheWholeMapping) {
  Mapping mapping(3 * kPage);
  const auto guard = Watch(mapping);
  for (size_t page = 0; page < 3; ++page) mapping[page * kPage] = 'x';
  mapping.Truncate(kPage);
  EXPECT_EQ(mapping[0], 'x');
  EXPECT_FALSE(guard->lost()) << "nothing that is missing was touched";
  const int64_t faults = SigbusGuard::NumFaults();
  EXPECT_EQ(mapping[2 * kPage], 0);
  EXPECT_TRUE(guard->lost());
  EXPECT_EQ(SigbusGuard::NumFaults(), faults + 1);
  EXPECT_EQ(mapping[kPage], 0);
  EXPECT_EQ(mapping[0], 0);
  mapping[kPage] = 'y';
  EXPECT_EQ(mapping[kPage], 'y');
  EXPECT_EQ(SigbusGuard::NumFaults(), faults + 1) << "one fault replaces all";
}

TEST(SigbusGuard, CatchesWritesAndAMappingThatEndsInsideAPage) {
  Mapping mapping(2 * kPage - 5);
  const auto guard = Watch(mapping);
  mapping.Truncate(0);
  mapping[2 * kPage - 1] = 1;  // Behind the last byte, in its page.
  EXPECT_TRUE(guard->lost());
}

TEST(SigbusGuard, KnowsOneMappingFromAnother) {
  Mapping a(kPage);
  Mapping b(kPage);
  Mapping c(kPage);
  const auto guard_a = Watch(a);
  auto guard_b = Watch(b);
  const auto guard_c = Watch(c);
  b.Truncate(0);
  EXPECT_EQ(b[0], 0);
  EXPECT_FALSE(guard_a->lost());
  EXPECT_TRUE(guard_b->lost());
  EXPECT_FALSE(guard_c->lost());
  // Its slot is used again, by a mapping that is not lost.
  guard_b.reset();
  Mapping d(kPage);
  const auto guard_d = Watch(d);
  EXPECT_FALSE(guard_d->lost());
}

TEST(SigbusGuard, ThreadsThatMissAPageAtOnceAllGoOn) {
  constexpr int kThreads = 8;
  for (int round = 0; round < 20; ++round) {
    Mapping mapping(64 * kPage);
    const auto guard = Watch(mapping);
    std::atomic<int> running = 0;
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&, t] {
        ++running;
        // Each its own bytes of every page. Ends only because the fault was caught.
        for (size_t i = 0; !guard->lost(); i = (i + 1) % 64) {
          volatile char& byte = mapping[i * kPage + static_cast<size_t>(t)];
          byte = static_cast<char>(byte + 1);
        }
      });
    }
    while (running < kThreads) std::this_thread::yield();
    mapping.Truncate(0);
    for (std::thread& thread : threads) thread.join();
    EXPECT_TRUE(guard->lost());
  }
}

TEST(SigbusGuard, GuardsThatComeAndGoDoNotHideTheOneThatFaults) {
  std::atomic<bool> stop = false;
  std::vector<std::thread> others;
  for (int t = 0; t < 3; ++t) {
    others.emplace_back([&] {
      while (!stop) {
        Mapping mapping(kPage);
        Watch(mapping);
      }
    });
  }
  for (int round = 0; round < 2000; ++round) {
    Mapping mapping(2 * kPage);
    const auto guard = Watch(mapping);
    mapping.Truncate(0);
    mapping[kPage] = 1;
    ASSERT_TRUE(guard->lost());
  }
  stop = true;
  for (std::thread& thread : others) thread.join();
}

TEST(SigbusGuard, RefusesMoreThanItsTableHolds) {
  Mapping mapping(kPage);
  std::vector<std::unique_ptr<SigbusGuard>> guards;
  for (int i = 0; i < SigbusGuard::kMaxMappings; ++i) guards.push_back(Watch(mapping));
  EXPECT_THAT(SigbusGuard::Watch(mapping.data(), kPage), tests::StatusIs(absl::StatusCode::kResourceExhausted));
  guards.pop_back();
  EXPECT_THAT(SigbusGuard::Watch(mapping.data(), kPage), tests::IsOk());
}

// What follows ends its process. Each test runs in a process of its own that has not installed the handler yet.
class SigbusGuardDeathTest : public ::testing::Test {
 protected:
  SigbusGuardDeathTest() { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

// The default ends the process by the signal; sanitizers have a handler of their own, which reports.
bool EndedBySigbus(int status) {
  if (kSanitized) return (WIFEXITED(status) && WEXITSTATUS(status) != 0) || WIFSIGNALED(status);
  return WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS;
}
const char* const kReport = kSanitized ? "BUS" : "";

void NoCoreDump() {
  const rlimit none = {0, 0};
  setrlimit(RLIMIT_CORE, &none);
}

void FaultOutsideEveryGuard() {
  NoCoreDump();
  Mapping guarded(kPage);
  Mapping other(kPage);
  const auto guard = Watch(guarded);
  other.Truncate(0);
  other[0] = 1;
  std::fprintf(stderr, "survived");
  std::_Exit(0);
}

TEST_F(SigbusGuardDeathTest, AFaultElsewhereEndsTheProcess) {
  EXPECT_EXIT(FaultOutsideEveryGuard(), EndedBySigbus, kReport);
}

TEST_F(SigbusGuardDeathTest, AGuardThatIsGoneGuardsNothing) {
  EXPECT_EXIT(
      {
        NoCoreDump();
        Mapping mapping(kPage);
        Watch(mapping).reset();
        mapping.Truncate(0);
        mapping[0] = 1;
        std::_Exit(0);
      },
      EndedBySigbus, kReport);
}

TEST_F(SigbusGuardDeathTest, ASignalThatSomebodySentEndsTheProcess) {
  EXPECT_EXIT(
      {
        NoCoreDump();
        Mapping mapping(kPage);
        const auto guard = Watch(mapping);
        kill(getpid(), SIGBUS);
        // Delivered by now, but a sanitizer may hold it back until the next system call.
        for (int i = 0; i < 1000; ++i) usleep(1000);
        std::_Exit(0);
      },
      EndedBySigbus, kReport);
}

TEST_F(SigbusGuardDeathTest, AHandlerThatWasThereBeforeHearsOfIt) {
  EXPECT_EXIT(
      {
        struct sigaction action = {};
        action.sa_sigaction = [](int, siginfo_t* info, void*) { std::_Exit(info->si_addr != nullptr ? 42 : 1); };
        action.sa_flags = SA_SIGINFO;
        sigaction(SIGBUS, &action, nullptr);
        FaultOutsideEveryGuard();
      },
      ::testing::ExitedWithCode(42), "");
  EXPECT_EXIT(
      {
        signal(SIGBUS, [](int number) { std::_Exit(number == SIGBUS ? 43 : 1); });
        FaultOutsideEveryGuard();
      },
      ::testing::ExitedWithCode(43), "");
}

TEST_F(SigbusGuardDeathTest, AProcessThatIgnoresTheSignalStillDoes) {
  EXPECT_EXIT(
      {
        signal(SIGBUS, SIG_IGN);
        Mapping mapping(kPage);
        const auto guard = Watch(mapping);
        kill(getpid(), SIGBUS);
        mapping.Truncate(0);
        mapping[0] = 1;
        std::_Exit(guard->lost() ? 44 : 1);
      },
      ::testing::ExitedWithCode(44), "");
}

// To map so many bytes at this address fails from here on.
void DenyMmap(const void* address, size_t bytes) {
  sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mmap, 0, 5),
      // The lower halves of the first two arguments, on a little-endian machine.
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(reinterpret_cast<uintptr_t>(address)), 0, 3),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args) + 8),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(bytes), 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOMEM),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program = {static_cast<unsigned short>(std::size(code)), code};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
    std::perror("seccomp");
    std::_Exit(1);
  }
}

// As where the kernel promises no more memory than it has (vm.overcommit_memory = 2).
void FaultWithoutMemory() {
  const size_t bytes = 67 * kPage;
  Mapping mapping(bytes);
  const auto guard = Watch(mapping);
  mapping.Truncate(0);
  DenyMmap(mapping.data(), bytes);
  errno = 77;
  mapping[10 * kPage] = 1;
  const bool errno_kept = errno == 77;
  mapping[20 * kPage + 5] = 1;
  std::_Exit(guard->lost() && errno_kept && SigbusGuard::NumFaults() == 2 ? 45 : 1);
}

TEST_F(SigbusGuardDeathTest, WhereMemoryIsShortItReplacesThePage) {
  EXPECT_EXIT(FaultWithoutMemory(), ::testing::ExitedWithCode(45), "");
}

}  // namespace
}  // namespace normd::shm
