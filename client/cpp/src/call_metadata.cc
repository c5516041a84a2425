#include "client/cpp/src/call_metadata.h"

#include <algorithm>

#include "absl/strings/ascii.h"

namespace normd::internal {
namespace {

bool IsOfName(char c) { return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-'; }

}  // namespace

void AddMetadata(absl::string_view layer, absl::string_view traceparent, grpc::ClientContext* context) {
  // gRPC would end the process over characters that no header may hold.
  if (!layer.empty() && std::all_of(layer.begin(), layer.end(), IsOfName)) {
    context->AddMetadata("normd-layer", std::string(layer));
  }
  if (!traceparent.empty() && traceparent.find_first_not_of("0123456789abcdef-") == absl::string_view::npos) {
    context->AddMetadata("traceparent", std::string(traceparent));
  }
}

}  // namespace normd::internal
