#ifndef NORMD_TESTS_STATUS_MATCHERS_H_
#define NORMD_TESTS_STATUS_MATCHERS_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ostream>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Matchers for absl::Status and absl::StatusOr; Abseil itself has them only in later releases.
//
//   EXPECT_THAT(registry.Delete("bn1", "", ""), IsOk());
//   EXPECT_THAT(registry.Get("bn2"), StatusIs(absl::StatusCode::kNotFound, "layer 'bn2'"));
//   NORMD_ASSERT_OK_AND_ASSIGN(auto layer, registry.Get("bn1"));
namespace normd::tests {

inline const absl::Status& GetStatus(const absl::Status& status) { return status; }
template <typename T>
const absl::Status& GetStatus(const absl::StatusOr<T>& status_or) {
  return status_or.status();
}

// Matches a status or StatusOr with this code whose message matches `message`: a matcher, or a string that the message
// contains.
class StatusIsMatcher {
 public:
  using is_gtest_matcher = void;
  StatusIsMatcher(absl::StatusCode code, ::testing::Matcher<const std::string&> message)
      : code_(code), message_(std::move(message)) {}

  template <typename StatusType>
  bool MatchAndExplain(const StatusType& value, ::testing::MatchResultListener* listener) const {
    const absl::Status& status = GetStatus(value);
    *listener << "which is " << status.ToString();
    return status.code() == code_ && message_.Matches(std::string(status.message()));
  }
  void DescribeTo(std::ostream* os) const {
    *os << "is " << absl::StatusCodeToString(code_) << " with a message that ";
    message_.DescribeTo(os);
  }
  void DescribeNegationTo(std::ostream* os) const {
    *os << "is not " << absl::StatusCodeToString(code_) << " with a message that ";
    message_.DescribeTo(os);
  }

 private:
  absl::StatusCode code_;
  ::testing::Matcher<const std::string&> message_;
};

inline StatusIsMatcher StatusIs(absl::StatusCode code) { return StatusIsMatcher(code, ::testing::_); }
inline StatusIsMatcher StatusIs(absl::StatusCode code, const char* substring) {
  return StatusIsMatcher(code, ::testing::HasSubstr(substring));
}
inline StatusIsMatcher StatusIs(absl::StatusCode code, const std::string& substring) {
  return StatusIsMatcher(code, ::testing::HasSubstr(substring));
}
template <typename MessageMatcher>
StatusIsMatcher StatusIs(absl::StatusCode code, const MessageMatcher& message) {
  return StatusIsMatcher(code, ::testing::SafeMatcherCast<const std::string&>(message));
}

// Matches an OK status, or a StatusOr that holds a value.
class IsOkMatcher {
 public:
  using is_gtest_matcher = void;
  template <typename StatusType>
  bool MatchAndExplain(const StatusType& value, ::testing::MatchResultListener* listener) const {
    const absl::Status& status = GetStatus(value);
    if (!status.ok()) *listener << "which is " << status.ToString();
    return status.ok();
  }
  void DescribeTo(std::ostream* os) const { *os << "is OK"; }
  void DescribeNegationTo(std::ostream* os) const { *os << "is not OK"; }
};

inline IsOkMatcher IsOk() { return {}; }

// Matches a StatusOr that holds a value that matches `inner`.
MATCHER_P(IsOkAndHolds, inner, "") {
  if (!arg.ok()) {
    *result_listener << "which is " << arg.status().ToString();
    return false;
  }
  return ::testing::ExplainMatchResult(inner, *arg, result_listener);
}

}  // namespace normd::tests

#define NORMD_EXPECT_OK(expression) EXPECT_THAT(expression, ::normd::tests::IsOk())
#define NORMD_ASSERT_OK(expression) ASSERT_THAT(expression, ::normd::tests::IsOk())

// NORMD_ASSERT_OK_AND_ASSIGN(declaration, expression): ends the test unless the StatusOr holds a value, and moves it
// out.
#define NORMD_ASSERT_OK_AND_ASSIGN(lhs, expression) \
  NORMD_ASSERT_OK_AND_ASSIGN_(NORMD_CONCAT_(normd_status_or_, __LINE__), lhs, expression)
#define NORMD_ASSERT_OK_AND_ASSIGN_(status_or, lhs, expression) \
  auto status_or = (expression);                                \
  NORMD_ASSERT_OK(status_or);                                   \
  lhs = *std::move(status_or)
#define NORMD_CONCAT_(a, b) NORMD_CONCAT_INNER_(a, b)
#define NORMD_CONCAT_INNER_(a, b) a##b

#endif  // NORMD_TESTS_STATUS_MATCHERS_H_
