#include "client/cli/hints.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace normd::cli {
namespace {

// Layers looked at for near names; more would make a mistyped name slow.
constexpr std::size_t kMostNames = 5000;

// Levenshtein's distance.
std::size_t Edits(absl::string_view a, absl::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i);
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = std::exchange(row[j], std::min({replaced, row[j] + 1, row[j - 1] + 1}));
    }
  }
  return row[b.size()];
}

std::vector<std::string> NamesOnServer(Context* context) {
  std::vector<std::string> names;
  ListLayersOptions list;
  list.page_size = 1000;
  CallOptions call;
  call.timeout = absl::Seconds(2);
  do {
    const absl::StatusOr<LayerPage> page = context->client().ListLayers(list, call);
    if (!page.ok()) break;
    for (const Layer& layer : page->layers) names.push_back(layer.name);
    list.page_token = page->next_page_token;
  } while (!list.page_token.empty() && names.size() < kMostNames);
  return names;
}

}  // namespace

std::vector<std::string> NearNames(absl::string_view wanted, const std::vector<std::string>& names) {
  const std::size_t most_edits = std::max<std::size_t>(1, wanted.size() / 3);
  std::vector<std::pair<std::size_t, std::string>> near;
  for (const std::string& name : names) {
    const std::size_t edits = Edits(wanted, name);
    if (edits <= most_edits) {
      near.emplace_back(edits, name);
    } else if (!wanted.empty() && absl::StrContains(name, wanted)) {
      near.emplace_back(most_edits + name.size(), name);
    }
  }
  std::sort(near.begin(), near.end());
  if (near.size() > 3) near.resize(3);
  std::vector<std::string> out;
  out.reserve(near.size());
  for (auto& [distance, name] : near) out.push_back(std::move(name));
  return out;
}

std::string HintFor(const absl::Status& status, Context* context) {
  switch (status.code()) {
    case absl::StatusCode::kNotFound: {
      if (context->layer.empty()) return "";
      const std::vector<std::string> near = NearNames(context->layer, NamesOnServer(context));
      return absl::StrCat(near.empty() ? "" : absl::StrCat("did you mean ", absl::StrJoin(near, " or "), "? "),
                          "`normctl layer list` shows the layers there are");
    }
    case absl::StatusCode::kUnavailable:
      return absl::StrCat("is a server running at ", context->server,
                          context->client_options().tls.has_value()
                              ? ", with TLS and a certificate that --tls-ca vouches for? Or"
                              : "? Start one with `normd`, or",
                          " name another with --server or NORMD_SERVER");
    case absl::StatusCode::kUnauthenticated:
      return "say who you are with --token-file, NORMD_TOKEN_FILE or NORMD_TOKEN; whoever runs the server makes tokens "
             "with `normctl token`";
    case absl::StatusCode::kPermissionDenied:
      return "the line of this token in the server's access file says what it may do";
    case absl::StatusCode::kAlreadyExists:
      return absl::StrCat("`normctl layer get ", context->layer, "` shows it");
    case absl::StatusCode::kAborted:
      return absl::StrCat("the layer has changed meanwhile; `normctl layer get ", context->layer,
                          "` shows its present etag and version");
    case absl::StatusCode::kDeadlineExceeded:
      return absl::StrCat("--timeout was ", context->timeout, "; allow more with --timeout 2m, say");
    case absl::StatusCode::kUnimplemented:
      return absl::StrCat("is what listens at ", context->server, " a normd server of this version?");
    default:
      return "";
  }
}

}  // namespace normd::cli
