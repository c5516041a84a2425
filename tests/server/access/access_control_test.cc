#include "server/access/access_control.h"

#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "server/access/caller.h"
#include "tests/fake_clock.h"
#include "tests/status_matchers.h"

namespace normd::access {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::SizeIs;
using tests::IsOk;
using tests::StatusIs;

// printf %s secret-token | sha256sum
constexpr char kLine[] =
    "actors sha256:930bbdc51b6aed5c2a5678fd6e28dee7a05e8a4b643cfc0b4427c3efb86c0d94 train:rl.* rate=2\n";

class AccessControlTest : public ::testing::Test {
 protected:
  AccessControlTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "normd-test-XXXXXX").string();
    folder_ = mkdtemp(pattern.data());
    file_ = folder_ + "/access";
  }
  ~AccessControlTest() override { std::filesystem::remove_all(folder_); }

  // Under another inode, as editors and Kubernetes do.
  void Write(const std::string& text) {
    std::ofstream(file_ + ".new") << text;
    std::filesystem::rename(file_ + ".new", file_);
  }
  absl::StatusOr<std::unique_ptr<AccessControl>> Open(double calls_per_second = 0) {
    return AccessControl::Open({.file = file_, .calls_per_second = calls_per_second}, clock_,
                               [this](const absl::Status& status) { reloads_.push_back(status); });
  }

  tests::FakeClock clock_;
  std::vector<absl::Status> reloads_;
  std::string folder_;
  std::string file_;
};

TEST_F(AccessControlTest, WhoShowsWhat) {
  Write(std::string(kLine) + "serving cert:serving.example read:*\n");
  NORMD_ASSERT_OK_AND_ASSIGN(const auto control, Open());
  const auto as = [&](std::vector<absl::string_view> authorizations, std::vector<std::string> certificates = {}) {
    return Caller(control.get(), {std::move(authorizations), std::move(certificates)});
  };
  EXPECT_EQ(as({"Bearer secret-token"}).name(), "actors");
  EXPECT_EQ(as({"bearer  secret-token "}).name(), "actors");
  EXPECT_EQ(as({}, {"x", "serving.example"}).name(), "serving");
  // The token counts.
  EXPECT_EQ(as({"Bearer secret-token"}, {"serving.example"}).name(), "actors");
  for (const Caller& nobody :
       {as({}), as({}, {"x"}), as({"Bearer other"}), as({"Bearer other"}, {"serving.example"}), as({"Bearer "}),
        as({"Basic secret-token"}), as({"secret-token"}), as({"Bearer secret-token", "Bearer secret-token"})}) {
    EXPECT_EQ(nobody.name(), "");
    EXPECT_THAT(nobody.Check(Role::kRead, "rl.obs"),
                StatusIs(absl::StatusCode::kUnauthenticated, AllOf(Not(HasSubstr("secret")), Not(HasSubstr("other")))));
    EXPECT_FALSE(nobody.Allows(Role::kRead, "rl.obs"));
  }
}

TEST_F(AccessControlTest, ChecksNameWhoAndWhat) {
  Write(kLine);
  NORMD_ASSERT_OK_AND_ASSIGN(const auto control, Open());
  const Caller caller(control.get(), {{"Bearer secret-token"}, {}});
  EXPECT_THAT(caller.Check(Role::kTrain, "rl.obs"), IsOk());
  EXPECT_THAT(caller.CheckSome(Role::kTrain), IsOk());
  EXPECT_THAT(caller.CheckPrefix(Role::kTrain, "rl."), IsOk());
  EXPECT_THAT(caller.Check(Role::kRead, "other"),
              StatusIs(absl::StatusCode::kPermissionDenied, "'actors' does not have the role read for layer 'other'"));
  EXPECT_THAT(caller.CheckPrefix(Role::kRead, ""),
              StatusIs(absl::StatusCode::kPermissionDenied, "'actors' does not have the role read for all layers"));
  EXPECT_THAT(caller.CheckPrefix(Role::kRead, "r\n"), StatusIs(absl::StatusCode::kPermissionDenied, "'r\\n'"));
  EXPECT_THAT(caller.CheckSome(Role::kAdmin), StatusIs(absl::StatusCode::kPermissionDenied, "admin for any layer"));
}

TEST_F(AccessControlTest, ARemovedTokenEndsAtTheNextLook) {
  Write(kLine);
  NORMD_ASSERT_OK_AND_ASSIGN(const auto control, Open());
  const Caller caller(control.get(), {{"Bearer secret-token"}, {}});
  EXPECT_TRUE(caller.Allows(Role::kTrain, "rl.obs"));
  Write("somebody anonymous read:rl.*\n");
  // It looks once a second.
  EXPECT_TRUE(caller.Allows(Role::kTrain, "rl.obs"));
  clock_.Advance(absl::Seconds(1));
  EXPECT_THAT(caller.Check(Role::kTrain, "rl.obs"), StatusIs(absl::StatusCode::kUnauthenticated, "access file"));
  EXPECT_THAT(reloads_, ElementsAre(IsOk()));
}

TEST_F(AccessControlTest, AWrongOrMissingFileChangesNothing) {
  Write(kLine);
  NORMD_ASSERT_OK_AND_ASSIGN(const auto control, Open());
  const Caller caller(control.get(), {{"Bearer secret-token"}, {}});
  Write("actors what");
  clock_.Advance(absl::Seconds(1));
  EXPECT_TRUE(caller.Allows(Role::kTrain, "rl.obs"));
  std::filesystem::remove(file_);
  clock_.Advance(absl::Seconds(1));
  EXPECT_TRUE(caller.Allows(Role::kTrain, "rl.obs"));
  clock_.Advance(absl::Seconds(1));
  EXPECT_TRUE(caller.Allows(Role::kTrain, "rl.obs"));
  // Once each.
  EXPECT_THAT(reloads_, ElementsAre(StatusIs(absl::StatusCode::kInvalidArgument, file_ + ": line 1"),
                                    StatusIs(absl::StatusCode::kNotFound, file_)));
  Write("actors anonymous read:*");
  clock_.Advance(absl::Seconds(1));
  EXPECT_FALSE(caller.Allows(Role::kTrain, "rl.obs"));
}

TEST_F(AccessControlTest, AReloadGivesNoCallsBack) {
  Write(kLine);
  NORMD_ASSERT_OK_AND_ASSIGN(const auto control, Open());
  const Caller caller(control.get(), {{"Bearer secret-token"}, {}});
  EXPECT_EQ(caller.TakeCall(), absl::ZeroDuration());
  EXPECT_EQ(caller.TakeCall(), absl::ZeroDuration());
  Write(std::string(kLine) + "x anonymous\n");
  clock_.Advance(absl::Seconds(1));
  EXPECT_EQ(caller.TakeCall(), absl::ZeroDuration());
  EXPECT_EQ(caller.TakeCall(), absl::ZeroDuration());
  EXPECT_EQ(caller.TakeCall(), absl::Milliseconds(500));
  EXPECT_EQ(reloads_.size(), 1U);
}

TEST_F(AccessControlTest, RatesOfThoseWithoutOneAndOfEverybody) {
  Write("a anonymous read:*\n");
  NORMD_ASSERT_OK_AND_ASSIGN(const auto control, Open(1));
  const Caller caller(control.get(), {});
  EXPECT_EQ(caller.TakeCall(), absl::ZeroDuration());
  EXPECT_EQ(caller.TakeCall(), absl::Seconds(1));

  file_.clear();
  NORMD_ASSERT_OK_AND_ASSIGN(const auto open, Open(1));
  const Caller everybody(open.get(), {});
  EXPECT_THAT(everybody.Check(Role::kAdmin, "x"), IsOk());
  EXPECT_THAT(everybody.CheckPrefix(Role::kAdmin, ""), IsOk());
  EXPECT_EQ(everybody.TakeCall(), absl::ZeroDuration());
  EXPECT_EQ(everybody.TakeCall(), absl::Seconds(1));
}

TEST_F(AccessControlTest, CallsGoOnWhileTheListChanges) {
  Write(kLine);
  NORMD_ASSERT_OK_AND_ASSIGN(const auto control, Open());
  std::atomic<bool> done = false;
  std::atomic<int> refused = 0;
  std::vector<std::thread> callers;
  for (int i = 0; i < 3; ++i) {
    callers.emplace_back([&] {
      while (!done) {
        const Caller caller(control.get(), {{"Bearer secret-token"}, {}});
        if (caller.name() != "actors" || !caller.Allows(Role::kTrain, "rl.obs")) ++refused;
      }
    });
  }
  for (int i = 0; i < 200; ++i) {
    Write(i % 2 == 0 ? std::string("other anonymous read:x\n") + kLine : kLine);
    clock_.Advance(absl::Seconds(1));
    control->list();
  }
  done = true;
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(refused, 0);
  EXPECT_THAT(reloads_, AllOf(SizeIs(200), Each(IsOk())));
}

TEST_F(AccessControlTest, DoesNotStartWithoutAFile) {
  EXPECT_THAT(Open(), StatusIs(absl::StatusCode::kNotFound, "cannot read " + file_));
  Write("x");
  EXPECT_THAT(Open(), StatusIs(absl::StatusCode::kInvalidArgument, file_ + ": line 1: 'x' has no credential"));
}

}  // namespace
}  // namespace normd::access
