#ifndef NORMD_TESTS_CLIENT_FAKE_RUNTIME_H_
#define NORMD_TESTS_CLIENT_FAKE_RUNTIME_H_

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "client/cpp/src/runtime.h"

namespace normd::testing {

// A world in which pauses take no time but move the clock, and chance is what the test says. Thread-safe.
class FakeRuntime : public internal::Runtime {
 public:
  absl::Duration Now() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    return now_;
  }
  void Sleep(absl::Duration pause) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    sleeps_.push_back(pause);
    now_ += pause;
  }
  void After(absl::Duration pause, std::function<void()> action) override {
    if (pause > absl::ZeroDuration()) {
      const std::lock_guard<std::mutex> lock(mutex_);
      scheduled_.push_back(pause);
      now_ += pause;
    }
    real_->After(absl::ZeroDuration(), std::move(action));
  }
  double Uniform() override { return uniform; }
  std::string NewRequestId() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    return absl::StrCat("id-", ++ids_);
  }

  void Advance(absl::Duration by) {
    const std::lock_guard<std::mutex> lock(mutex_);
    now_ += by;
  }
  // Pauses that blocked a thread, and those that did not.
  std::vector<absl::Duration> sleeps() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return sleeps_;
  }
  std::vector<absl::Duration> scheduled() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return scheduled_;
  }

  double uniform = 0.0;

 private:
  const std::shared_ptr<internal::Runtime> real_ = internal::Runtime::System();
  std::mutex mutex_;
  absl::Duration now_ = absl::Hours(1);
  std::vector<absl::Duration> sleeps_;
  std::vector<absl::Duration> scheduled_;
  int ids_ = 0;
};

}  // namespace normd::testing

#endif  // NORMD_TESTS_CLIENT_FAKE_RUNTIME_H_
