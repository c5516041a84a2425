#include <openssl/evp.h>
#include <sys/random.h>

#include <array>
#include <cerrno>
#include <iostream>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/cli/verbs.h"

namespace normd::cli {
namespace {

constexpr std::size_t kMostNameBytes = 64;

bool IsNameOf(absl::string_view text, absl::string_view others) {
  for (const char c : text) {
    if (!absl::ascii_isalnum(static_cast<unsigned char>(c)) && others.find(c) == absl::string_view::npos) return false;
  }
  return true;
}

// Empty, or what is wrong: as validators of CLI11 have it.
std::string CheckName(const std::string& name) {
  if (!name.empty() && name.size() <= kMostNameBytes && IsNameOf(name, "._-")) return "";
  return absl::StrCat("'", name, "' is no name; want 1 to ", kMostNameBytes, " letters, digits, '.', '_' and '-'");
}

std::string CheckGrant(const std::string& grant) {
  const absl::string_view text = grant;
  const std::size_t colon = text.find(':');
  const absl::string_view role = text.substr(0, colon);
  absl::string_view pattern = colon == absl::string_view::npos ? "" : text.substr(colon + 1);
  const bool is_role = role == "read" || role == "train" || role == "admin";
  const bool some = !pattern.empty();
  if (some && pattern.back() == '*') pattern.remove_suffix(1);
  if (is_role && some && IsNameOf(pattern, "._-")) return "";
  return absl::StrCat("'", grant,
                      "' is no grant; want read, train or admin, ':', and a layer's name, or how it begins "
                      "and one '*', as in train:rl.*");
}

absl::StatusOr<std::string> NewToken() {
  std::array<char, 32> bytes;
  // Up to 256 bytes come at once.
  if (getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) {
    return absl::InternalError(
        absl::StrCat("no random numbers from the system: ", std::error_code(errno, std::generic_category()).message()));
  }
  return absl::StrCat("normd_", absl::WebSafeBase64Escape({bytes.data(), bytes.size()}));
}

std::string Sha256(absl::string_view text) {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest;
  unsigned int size = 0;
  EVP_Digest(text.data(), text.size(), digest.data(), &size, EVP_sha256(), nullptr);
  return absl::BytesToHexString({reinterpret_cast<const char*>(digest.data()), size});
}

}  // namespace

void AddToken(CLI::App* parent, Context* context) {
  struct Arguments {
    std::string name;
    std::vector<std::string> grants;
  };
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* verb = parent->add_subcommand("token", "Make a token, and the line of it for the server's access file");
  verb->footer(
      "Prints the token to stdout, and to stderr the line, which holds its hash only. Asks no server. For example:\n"
      "  (umask 077; normctl token trainer 'train:rl.*' >trainer.token 2>>access)");
  verb->add_option("name", arguments->name, "Whose token it is, as logs show it")
      ->required()
      ->check(CLI::Validator(CheckName, ""))
      ->type_name("NAME");
  verb->add_option("grants", arguments->grants, "What it may do, e.g. read:*, train:rl.* or admin:model.bn1")
      ->check(CLI::Validator(CheckGrant, ""))
      ->type_name("ROLE:PATTERN");
  verb->callback([arguments, context] {
    context->action = [arguments] {
      const absl::StatusOr<std::string> token = NewToken();
      if (!token.ok()) return token.status();
      std::cout << *token << "\n";
      std::cerr << arguments->name << " sha256:" << Sha256(*token) << (arguments->grants.empty() ? "" : " ")
                << absl::StrJoin(arguments->grants, " ") << "\n";
      return absl::OkStatus();
    };
  });
}

}  // namespace normd::cli
