#include "client/cpp/src/runtime.h"

#include <grpc/support/time.h>
#include <grpcpp/alarm.h>

#include <chrono>
#include <cstdint>
#include <random>
#include <thread>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "client/cpp/src/handover.h"

namespace normd::internal {
namespace {

class SystemRuntime : public Runtime {
 public:
  absl::Duration Now() override { return absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch()); }

  void Sleep(absl::Duration pause) override { std::this_thread::sleep_for(absl::ToChronoMicroseconds(pause)); }

  void After(absl::Duration pause, std::function<void()> action) override {
    // Owns itself: an alarm must live until it has fired, and gRPC lets it be destroyed from its own callback.
    struct Timer {
      grpc::Alarm alarm;
      std::function<void()> action;
    };
    auto* timer = new Timer{{}, std::move(action)};
    const gpr_timespec when = gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                                           gpr_time_from_micros(absl::ToInt64Microseconds(pause), GPR_TIMESPAN));
    handover::Give();
    timer->alarm.Set(when, [timer](bool /*fired*/) {
      handover::Take();
      const std::unique_ptr<Timer> owned(timer);
      owned->action();
    });
  }

  double Uniform() override {
    thread_local std::minstd_rand generator(std::random_device{}());
    return std::uniform_real_distribution<double>(0.0, 1.0)(generator);
  }

  std::string NewRequestId() override {
    // Straight from the operating system each time: a seeded generator would hand the same ids to both sides of a fork,
    // and the server would take one side's step for a retry of the other's.
    std::random_device device;
    return absl::StrFormat("%08x%08x%08x%08x", device(), device(), device(), device());
  }
};

}  // namespace

std::shared_ptr<Runtime> Runtime::System() {
  static const auto* const runtime = new std::shared_ptr<Runtime>(std::make_shared<SystemRuntime>());
  return *runtime;
}

}  // namespace normd::internal
