#include "server/layer/layer_name.h"

#include <string>

#include "tests/status_matchers.h"

namespace normd::layer {
namespace {

using absl::StatusCode;
using ::testing::AllOf;
using ::testing::HasSubstr;
using tests::IsOk;
using tests::StatusIs;

TEST(LayerNameTest, TakesDottedPaths) {
  for (const std::string& name : {std::string("a"), std::string("resnet50.layer1.0.bn1"), std::string("0"),
                                  std::string("A-b_C.9"), std::string(kMaxNameBytes, 'x')}) {
    EXPECT_THAT(ValidateName(name), IsOk()) << name;
  }
}

TEST(LayerNameTest, RefusesEverythingElse) {
  const struct {
    std::string name;
    std::string why;
  } cases[] = {
      {"", "layer name '' is empty"},
      {std::string(kMaxNameBytes + 1, 'x'), "has 257 bytes"},
      {".", "has an empty segment"},
      {".a", "has an empty segment"},
      {"a.", "has an empty segment"},
      {"a..b", "has an empty segment"},
      {"a/b", "contains '/'"},
      {"a b", "contains ' '"},
      {"layers/a", "contains '/'"},
      {"bn\n1", "contains '\\n'"},
      {std::string("a\0b", 3), "contains '\\x00'"},
      {"schön", "contains '\\xc3'"},
  };
  for (const auto& c : cases) {
    EXPECT_THAT(ValidateName(c.name),
                StatusIs(StatusCode::kInvalidArgument, AllOf(HasSubstr(c.why), HasSubstr("want segments of letters"))))
        << c.name;
  }
}

TEST(LayerNameTest, QuotesALongNameShortened) {
  const absl::Status status = ValidateName(std::string(100'000, '\n'));
  EXPECT_LT(status.message().size(), 500U);
}

TEST(LayerNameTest, LimitsRequestIds) {
  EXPECT_THAT(ValidateRequestId(""), IsOk());
  EXPECT_THAT(ValidateRequestId(std::string(kMaxRequestIdBytes, '\0')), IsOk());
  EXPECT_THAT(ValidateRequestId(std::string(kMaxRequestIdBytes + 1, 'r')),
              StatusIs(StatusCode::kInvalidArgument, "has 129 bytes, want at most 128"));
}

}  // namespace
}  // namespace normd::layer
