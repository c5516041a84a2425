#include "server/app/stop_signals.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <thread>

namespace normd::app {
namespace {

int BlockAndOpen() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  return signalfd(-1, &signals, SFD_CLOEXEC);
}

}  // namespace

StopSignals::StopSignals() : signal_fd_(BlockAndOpen()) {}

StopSignals::~StopSignals() { close(signal_fd_); }

int StopSignals::Wait() {
  signalfd_siginfo info = {};
  while (read(signal_fd_, &info, sizeof(info)) != sizeof(info)) {
    if (errno != EINTR) return 0;
  }
  return static_cast<int>(info.ssi_signo);
}

void StopSignals::RunUnlessSignalled(absl::FunctionRef<void()> work) {
  const int done_fd = eventfd(0, EFD_CLOEXEC);
  std::thread worker([&] {
    work();
    const uint64_t one = 1;
    // Cannot fail: the counter is far from full.
    [[maybe_unused]] const ssize_t written = write(done_fd, &one, sizeof(one));
  });
  pollfd events[] = {{done_fd, POLLIN, 0}, {signal_fd_, POLLIN, 0}};
  while (events[0].revents == 0) {
    if (poll(events, 2, -1) < 0) continue;
    if (events[0].revents == 0 && events[1].revents != 0) std::_Exit(128 + Wait());
  }
  worker.join();
  close(done_fd);
}

}  // namespace normd::app
