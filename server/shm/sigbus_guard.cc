#include "server/shm/sigbus_guard.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "server/base/mutex.h"

namespace normd::shm {
namespace {

// A guarded mapping, as the handler finds it. The handler may look while others change the table, so it reads a slot
// between two looks at `version`, which is odd while the slot changes. A slot that changed under its eyes is not the
// one it looks for: who touches a mapping keeps it from going.
struct Slot {
  std::atomic<uint32_t> version = 0;
  // Both 0 while the slot is free.
  std::atomic<uintptr_t> begin = 0;
  std::atomic<uintptr_t> end = 0;
  std::atomic<bool> lost = false;
};
static_assert(std::atomic<uintptr_t>::is_always_lock_free && std::atomic<uint32_t>::is_always_lock_free &&
              std::atomic<bool>::is_always_lock_free && std::atomic<int64_t>::is_always_lock_free);

constinit Slot slots[SigbusGuard::kMaxMappings];
// One past the last slot that was ever taken.
constinit std::atomic<int> slots_end = 0;
constinit std::atomic<int64_t> faults = 0;
// Written before the handler is installed, never after.
constinit struct sigaction previous_action = {};
constinit uintptr_t page_bytes = 0;
constinit base::Mutex slots_mutex;

// A raw system call: sanitizers intercept the function, and what they then do is not meant for a signal handler.
bool MapZeroPages(uintptr_t begin, std::size_t bytes) {
  const long result = syscall(SYS_mmap, begin, bytes, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0L);
  return result == static_cast<long>(begin);
}

// Async-signal-safe. False if no guarded mapping holds `address`.
bool ReplaceMapping(uintptr_t address) {
  const int end_of_slots = slots_end.load();
  for (int i = 0; i < end_of_slots; ++i) {
    Slot& slot = slots[i];
    const uint32_t version = slot.version.load();
    const uintptr_t begin = slot.begin.load();
    const uintptr_t end = slot.end.load();
    if (version % 2 != 0 || slot.version.load() != version) continue;
    if (address < begin || address >= end) continue;
    // First: nobody may see a zero page of a mapping that is not known to be lost.
    slot.lost.store(true);
    // The one page if limits on memory do not allow all.
    if (!MapZeroPages(begin, end - begin) && !MapZeroPages(address / page_bytes * page_bytes, page_bytes)) return false;
    faults.fetch_add(1);
    return true;
  }
  return false;
}

// Lets the signal take the way that it would have taken without us.
void HandOn(int number, siginfo_t* info, void* context) {
  if ((previous_action.sa_flags & SA_SIGINFO) != 0) {
    previous_action.sa_sigaction(number, info, context);
    return;
  }
  if (previous_action.sa_handler == SIG_IGN && info->si_code <= 0) return;
  if (previous_action.sa_handler != SIG_DFL && previous_action.sa_handler != SIG_IGN) {
    previous_action.sa_handler(number);
    return;
  }
  // The default ends the process. A fault comes again as soon as this handler returns, so that the core dump shows the
  // instruction that is to blame; what somebody sent does not, and is sent again.
  struct sigaction action = {};
  action.sa_handler = SIG_DFL;
  sigaction(number, &action, nullptr);
  if (info->si_code <= 0) raise(number);
}

void OnSigbus(int number, siginfo_t* info, void* context) {
  const int saved_errno = errno;
  // Only the kernel's own signals have an address.
  const bool handled = info->si_code > 0 && ReplaceMapping(reinterpret_cast<uintptr_t>(info->si_addr));
  if (!handled) HandOn(number, info, context);
  errno = saved_errno;
}

bool InstallHandler() {
  page_bytes = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  if (sigaction(SIGBUS, nullptr, &previous_action) != 0) return false;
  struct sigaction action = {};
  action.sa_sigaction = OnSigbus;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  return sigaction(SIGBUS, &action, nullptr) == 0;
}

void Set(Slot& slot, uintptr_t begin, uintptr_t end) {
  slot.version.fetch_add(1);
  slot.begin.store(begin);
  slot.end.store(end);
  slot.version.fetch_add(1);
}

}  // namespace

absl::StatusOr<std::unique_ptr<SigbusGuard>> SigbusGuard::Watch(char* begin, std::size_t bytes) {
  static const bool installed = InstallHandler();
  if (!installed) return absl::InternalError("the handler of SIGBUS cannot be installed");
  const auto first = reinterpret_cast<uintptr_t>(begin);
  const uintptr_t end = (first + bytes + page_bytes - 1) / page_bytes * page_bytes;

  const base::MutexLock lock(&slots_mutex);
  for (int i = 0; i < kMaxMappings; ++i) {
    if (slots[i].end.load() != 0) continue;
    slots[i].lost.store(false);
    Set(slots[i], first, end);
    if (i >= slots_end.load()) slots_end.store(i + 1);
    return std::unique_ptr<SigbusGuard>(new SigbusGuard(i));
  }
  return absl::ResourceExhaustedError(absl::StrCat("more than ", kMaxMappings, " regions are mapped"));
}

SigbusGuard::~SigbusGuard() {
  const base::MutexLock lock(&slots_mutex);
  Set(slots[slot_], 0, 0);
}

bool SigbusGuard::lost() const { return slots[slot_].lost.load(); }

void SigbusGuard::MarkLost() { slots[slot_].lost.store(true); }

int64_t SigbusGuard::NumFaults() { return faults.load(); }

}  // namespace normd::shm
