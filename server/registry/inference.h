#ifndef NORMD_SERVER_REGISTRY_INFERENCE_H_
#define NORMD_SERVER_REGISTRY_INFERENCE_H_

#include <cstdint>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "server/layer/tensor.h"
#include "server/registry/call_control.h"
#include "server/registry/chunk_normalizer.h"
#include "server/registry/layer_registry.h"

// The calls that read a layer and change nothing. Statuses as proto/normd/v1/normalization_service.proto says.
namespace normd::registry {

struct InferenceResult {
  int64_t version = 0;
  std::string content_hash;
};

// Normalizes `x` into `y` with the running statistics (without track_running_stats: with those of x). `y` has the size
// of x.data and is aligned to the element; it may be x.data. `version` 0: the newest.
absl::StatusOr<InferenceResult> Infer(const LayerRegistry& registry, absl::string_view name, const layer::TensorView& x,
                                      int64_t version, const CallControl& control, char* y);

// Copies the bytes of x from `begin` on to `out`. Thread-safe.
using GatherFunction = absl::FunctionRef<void(int64_t begin, absl::Span<char> out)>;

// Infer for an x that has yet to be gathered to where `y` is: block by block, each normalized while it is in the cache.
// x.data is `y`.
absl::StatusOr<InferenceResult> InferGathered(const LayerRegistry& registry, absl::string_view name,
                                              const layer::TensorView& x, int64_t version, const CallControl& control,
                                              GatherFunction gather, char* y);

struct ChunkedInference {
  ChunkNormalizer normalizer;
  InferenceResult result;
};

// Infer for a tensor that comes in chunks, of which `x` says all but the data. FAILED_PRECONDITION also without
// track_running_stats: the statistics of x are known only at its end.
absl::StatusOr<ChunkedInference> InferInChunks(const LayerRegistry& registry, absl::string_view name,
                                               const layer::TensorView& x, int64_t version);

// The inverse of Infer: `y` into `x`.
absl::StatusOr<InferenceResult> Denormalize(const LayerRegistry& registry, absl::string_view name,
                                            const layer::TensorView& y, int64_t version, const CallControl& control,
                                            char* x);

}  // namespace normd::registry

#endif  // NORMD_SERVER_REGISTRY_INFERENCE_H_
