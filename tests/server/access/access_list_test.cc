#include "server/access/access_list.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/status_matchers.h"

namespace normd::access {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsNull;
using ::testing::Not;
using ::testing::NotNull;
using tests::StatusIs;

// Of "abc" and of nothing, from FIPS 180-2.
constexpr char kAbc[] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
constexpr absl::string_view kAbcBytes(
    "\xba\x78\x16\xbf\x8f\x01\xcf\xea\x41\x41\x40\xde\x5d\xae\x22\x23\xb0\x03\x61\xa3\x96\x17\x7a\x9c\xb4\x10\xff\x61"
    "\xf2\x00\x15\xad",
    32);
constexpr char kNothing[] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

TEST(AccessList, IdentitiesByTheirCredentials) {
  NORMD_ASSERT_OK_AND_ASSIGN(const AccessList list,
                             AccessList::Parse(absl::StrCat(
                                 "# who may do what\n\nactors\tsha256:", kAbc, "  train:rl.* read:*  # the fleet\r\n",
                                 "serving cert:serving.example read:* rate=2.5\nguest anonymous read:public\n",
                                 "actors cert:actors.example")));
  const auto actors = list.FindToken(kAbcBytes);
  ASSERT_THAT(actors, NotNull());
  EXPECT_EQ(actors->name, "actors");
  EXPECT_EQ(list.FindCertificate("actors.example"), actors);
  EXPECT_THAT(list.FindToken(std::string(32, 'x')), IsNull());
  EXPECT_THAT(list.FindToken(kAbc), IsNull());
  EXPECT_EQ(list.FindCertificate("serving.example")->calls_per_second, 2.5);
  EXPECT_THAT(list.FindCertificate("serving"), IsNull());
  EXPECT_EQ(list.anonymous()->name, "guest");
}

TEST(AccessList, WhatGrantsAllow) {
  struct Case {
    const char* grants;
    Role role;
    const char* layer;
    bool allowed;
  };
  for (const Case& c : std::vector<Case>{
           {"read:*", Role::kRead, "a.b", true},
           {"read:*", Role::kTrain, "a.b", false},
           {"train:*", Role::kRead, "a", true},
           {"admin:*", Role::kTrain, "a", true},
           {"train:*", Role::kAdmin, "a", false},
           {"train:rl.*", Role::kTrain, "rl.obs", true},
           {"train:rl.*", Role::kTrain, "rl", false},
           {"train:rl.*", Role::kTrain, "rlx.obs", false},
           {"train:rl*", Role::kTrain, "rlx", true},
           {"train:rl.obs", Role::kTrain, "rl.obs", true},
           {"train:rl.obs", Role::kTrain, "rl.obs2", false},
           {"train:rl.obs", Role::kTrain, "rl.ob", false},
           {"read:a train:b", Role::kTrain, "a", false},
           {"read:a train:b", Role::kTrain, "b", true},
           {"", Role::kRead, "a", false},
       }) {
    SCOPED_TRACE(absl::StrCat(c.grants, " ", RoleName(c.role), " ", c.layer));
    NORMD_ASSERT_OK_AND_ASSIGN(const AccessList list, AccessList::Parse(absl::StrCat("x anonymous ", c.grants)));
    EXPECT_EQ(list.anonymous()->Allows(c.role, c.layer), c.allowed);
  }
}

TEST(AccessList, WhatGrantsAllowForAllLayersOfAPrefix) {
  NORMD_ASSERT_OK_AND_ASSIGN(const AccessList list, AccessList::Parse("x anonymous admin:rl.* admin:one read:*"));
  const auto x = list.anonymous();
  EXPECT_TRUE(x->AllowsPrefix(Role::kAdmin, "rl."));
  EXPECT_TRUE(x->AllowsPrefix(Role::kAdmin, "rl.obs"));
  EXPECT_FALSE(x->AllowsPrefix(Role::kAdmin, "rl"));
  EXPECT_FALSE(x->AllowsPrefix(Role::kAdmin, ""));
  // Another layer may begin with it.
  EXPECT_FALSE(x->AllowsPrefix(Role::kAdmin, "one"));
  EXPECT_TRUE(x->AllowsPrefix(Role::kRead, ""));
  EXPECT_TRUE(x->Has(Role::kTrain));
}

TEST(AccessList, WrongFilesAreRefusedWithoutWhatStandsThere) {
  struct Case {
    std::string text;
    const char* error;
  };
  const std::string ok = absl::StrCat("a sha256:", kAbc, " read:*\n");
  for (const Case& c : std::vector<Case>{
           {"", "nobody"},
           {"# nothing\n", "nobody"},
           {ok + "b", "line 2: 'b' has no credential"},
           {"b SECRET read:*", "line 1: the credential of 'b' is none: want sha256:"},
           {"b sha256:SECRET read:*", "line 1: the credential of 'b' is none: want sha256:"},
           {absl::StrCat("b sha256:", kAbc, "0"), "the credential of 'b' is none"},
           {"b sha256:anonymous admin:*", "the credential of 'b' is none"},
           {"b sha256:cert:SECRET admin:*", "the credential of 'b' is none"},
           {"b cert: read:*", "the credential of 'b' is none"},
           {absl::StrCat(ok, "b sha256:", kAbc), "line 2: the credential is that of 'a' already"},
           {absl::StrCat(ok, "a sha256:", kAbc), "line 2: the credential is that of 'a' already"},
           {"a cert:x\nb cert:x", "line 2: the credential is that of 'a' already"},
           {"a anonymous\nb anonymous", "line 2: 'a' is anonymous already"},
           {"SECRET/x anonymous", "line 1: the name of the identity has other than letters"},
           {std::string(65, 'a') + " anonymous", "line 1: the name of the identity"},
           {"b anonymous SECRET", "what number 1 after the credential of 'b' grants: want ROLE:LAYER or ROLE:PREFIX*"},
           {"b anonymous read:* write:*", "what number 2 after the credential of 'b' grants"},
           {"b anonymous read:", "what number 1"},
           {"b anonymous read:a*b", "what number 1"},
           {"b anonymous read:a/b", "what number 1"},
           {"b anonymous rate=0", "the rate of 'b' is none"},
           {"b anonymous rate=-1", "the rate of 'b' is none"},
           {"b anonymous rate=nan", "the rate of 'b' is none"},
           {"b anonymous rate=fast", "the rate of 'b' is none"},
       }) {
    EXPECT_THAT(AccessList::Parse(c.text),
                StatusIs(absl::StatusCode::kInvalidArgument, AllOf(HasSubstr(c.error), Not(HasSubstr("SECRET")))));
  }
  EXPECT_THAT(AccessList::Parse(absl::StrCat("empty sha256:", kNothing)), tests::IsOk());
}

}  // namespace
}  // namespace normd::access
