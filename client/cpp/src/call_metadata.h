#ifndef NORMD_CLIENT_CPP_SRC_CALL_METADATA_H_
#define NORMD_CLIENT_CPP_SRC_CALL_METADATA_H_

#include <grpcpp/client_context.h>

#include <string>

#include "absl/strings/string_view.h"
#include "client/cpp/src/stub.h"

namespace normd::internal {

// The layer that a call is of; empty: none, or several.
template <typename Request>
absl::string_view LayerOf(const Request& request) {
  if constexpr (requires { absl::string_view(request.layer()); }) return request.layer();
  return "";
}
inline absl::string_view LayerOf(const TensorRequest& request) { return request.layer; }
inline absl::string_view LayerOf(const v1::CreateLayerRequest& request) { return request.name(); }
inline absl::string_view LayerOf(const v1::GetLayerRequest& request) { return request.name(); }
inline absl::string_view LayerOf(const v1::UpdateLayerRequest& request) { return request.name(); }
inline absl::string_view LayerOf(const v1::DeleteLayerRequest& request) { return request.name(); }
inline absl::string_view LayerOf(const v1::ResetStatisticsRequest& request) { return request.name(); }
inline absl::string_view LayerOf(const v1::SetStateRequest& request) { return request.name(); }
inline absl::string_view LayerOf(const v1::ForkLayerRequest& request) { return request.name(); }

// What a call says outside its messages: "normd-layer", by which a proxy sends the calls of a layer to the same server,
// and "traceparent". Neither is sent if it is empty or malformed: the server refuses such a name by itself.
void AddMetadata(absl::string_view layer, absl::string_view traceparent, grpc::ClientContext* context);

}  // namespace normd::internal

#endif  // NORMD_CLIENT_CPP_SRC_CALL_METADATA_H_
