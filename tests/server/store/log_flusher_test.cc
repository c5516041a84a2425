#include "server/store/sqlite/log_flusher.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>

#include "tests/status_matchers.h"

namespace normd::store {
namespace {

using absl::StatusCode;
using tests::IsOk;
using tests::StatusIs;

class LogFlusherTest : public ::testing::Test {
 protected:
  LogFlusherTest() {
    file_ = (std::filesystem::temp_directory_path() / "normd_log_XXXXXX").string();
    close(mkstemp(file_.data()));
    auto opened = LogFlusher::Open(file_);
    EXPECT_THAT(opened, IsOk());
    flusher_ = *std::move(opened);
  }
  ~LogFlusherTest() override { std::filesystem::remove(file_); }

  void AwaitFlushes(int64_t count) {
    while (flusher_->num_flushes() < count) std::this_thread::yield();
  }

  std::string file_;
  std::unique_ptr<LogFlusher> flusher_;
};

TEST_F(LogFlusherTest, TheFirstToBeDueCounts) {
  flusher_->FlushWithin(absl::Hours(1));
  flusher_->FlushWithin(absl::Milliseconds(1));
  flusher_->FlushWithin(absl::Hours(1));
  AwaitFlushes(1);
  // Each has been served.
  EXPECT_EQ(flusher_->num_flushes(), 1);
}

TEST_F(LogFlusherTest, FlushesAgain) {
  for (int i = 1; i <= 3; ++i) {
    flusher_->FlushWithin(absl::ZeroDuration());
    AwaitFlushes(i);
  }
}

TEST_F(LogFlusherTest, EndsWhileOneIsDueMuchLater) {
  flusher_->FlushWithin(absl::Hours(1));
  flusher_.reset();
}

TEST_F(LogFlusherTest, AFileThatIsNotThere) {
  EXPECT_THAT(LogFlusher::Open(file_ + "-none"), StatusIs(StatusCode::kUnavailable, "No such file"));
}

}  // namespace
}  // namespace normd::store
