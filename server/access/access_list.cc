#include "server/access/access_list.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace normd::access {
namespace {

constexpr std::size_t kMaxNameBytes = 64;
constexpr std::size_t kHashDigits = 64;
constexpr double kMaxCallsPerSecond = 1e9;

bool IsIdentityName(absl::string_view name) {
  return !name.empty() && name.size() <= kMaxNameBytes && std::all_of(name.begin(), name.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' || c == '-';
  });
}

bool IsHash(absl::string_view text) {
  return text.size() == kHashDigits && std::all_of(text.begin(), text.end(), [](char c) {
           return absl::ascii_isxdigit(static_cast<unsigned char>(c));
         });
}

using IdentityMap = absl::flat_hash_map<std::string, std::shared_ptr<Identity>>;

absl::Status Add(std::string key, const std::shared_ptr<Identity>& identity, IdentityMap* map) {
  const auto [found, added] = map->try_emplace(std::move(key), identity);
  if (added) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("the credential is that of '", found->second->name, "' already"));
}

}  // namespace

bool Identity::Has(Role role) const {
  return std::any_of(grants.begin(), grants.end(), [&](const Grant& grant) { return grant.role() >= role; });
}

bool Identity::Allows(Role role, absl::string_view layer) const {
  return std::any_of(grants.begin(), grants.end(),
                     [&](const Grant& grant) { return grant.role() >= role && grant.Covers(layer); });
}

bool Identity::AllowsPrefix(Role role, absl::string_view prefix) const {
  return std::any_of(grants.begin(), grants.end(),
                     [&](const Grant& grant) { return grant.role() >= role && grant.CoversPrefix(prefix); });
}

absl::StatusOr<AccessList> AccessList::Parse(absl::string_view text) {
  AccessList list;
  // One line. Says nothing of what stands there but names: a token may have got there by mistake.
  const auto parse_line = [&list](const std::vector<absl::string_view>& words) -> absl::Status {
    if (!IsIdentityName(words[0])) {
      return absl::InvalidArgumentError(
          absl::StrCat("the name of the identity has other than letters, digits, '.', "
                       "'_' and '-', or more than ",
                       kMaxNameBytes, " of them"));
    }
    std::shared_ptr<Identity>& identity = list.identities_[std::string(words[0])];
    if (identity == nullptr) identity = std::make_shared<Identity>();
    identity->name = std::string(words[0]);
    if (words.size() < 2) return absl::InvalidArgumentError(absl::StrCat("'", words[0], "' has no credential"));

    const absl::string_view credential = words[1];
    const absl::string_view value = credential.substr(std::min(credential.find(':'), credential.size() - 1) + 1);
    absl::Status added;
    if (absl::StartsWith(credential, "sha256:") && IsHash(value)) {
      added = Add(absl::HexStringToBytes(value), identity, &list.tokens_);
    } else if (absl::StartsWith(credential, "cert:") && !value.empty()) {
      added = Add(std::string(value), identity, &list.certificates_);
    } else if (credential == "anonymous") {
      if (list.anonymous_ != nullptr && list.anonymous_ != identity) {
        added = absl::InvalidArgumentError(absl::StrCat("'", list.anonymous_->name, "' is anonymous already"));
      }
      list.anonymous_ = identity;
    } else {
      added = absl::InvalidArgumentError(absl::StrCat(
          "the credential of '", words[0],
          "' is none: want sha256: and the 64 hexadecimal digits of a token's SHA-256, cert:NAME or anonymous"));
    }
    if (!added.ok()) return added;

    for (std::size_t i = 2; i < words.size(); ++i) {
      absl::string_view rate = words[i];
      if (absl::ConsumePrefix(&rate, "rate=")) {
        double calls = 0;
        if (!absl::SimpleAtod(rate, &calls) || !(calls > 0 && calls <= kMaxCallsPerSecond)) {
          return absl::InvalidArgumentError(
              absl::StrCat("the rate of '", words[0], "' is none: want calls a second, as in rate=1000"));
        }
        identity->calls_per_second = calls;
        continue;
      }
      absl::StatusOr<Grant> grant = Grant::Parse(words[i]);
      if (!grant.ok()) {
        return absl::InvalidArgumentError(absl::StrCat("what number ", i - 1, " after the credential of '", words[0],
                                                       "' grants: ", grant.status().message()));
      }
      identity->grants.push_back(*std::move(grant));
    }
    return absl::OkStatus();
  };

  int number = 0;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    const absl::string_view content = line.substr(0, line.find('#'));
    const std::vector<absl::string_view> words = absl::StrSplit(content, absl::ByAnyChar(" \t\r"), absl::SkipEmpty());
    if (words.empty()) continue;
    if (absl::Status status = parse_line(words); !status.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("line ", number, ": ", status.message()));
    }
  }
  if (list.identities_.empty()) return absl::InvalidArgumentError("there is nobody in it, so nobody could call");
  return list;
}

std::shared_ptr<const Identity> AccessList::FindToken(absl::string_view sha256) const {
  const auto found = tokens_.find(sha256);
  return found == tokens_.end() ? nullptr : found->second;
}

std::shared_ptr<const Identity> AccessList::FindCertificate(absl::string_view name) const {
  const auto found = certificates_.find(name);
  return found == certificates_.end() ? nullptr : found->second;
}

}  // namespace normd::access
