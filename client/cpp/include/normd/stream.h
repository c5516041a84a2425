#ifndef NORMD_STREAM_H_
#define NORMD_STREAM_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "normd/tensor.h"

namespace normd {
inline namespace abi_0_1 {

struct TrainStepOptions;
struct TrainStepResult;
struct InferOptions;
struct InferResult;
struct BackwardOptions;
struct BackwardResult;

// Settings of Client::OpenSteps.
struct StepStreamOptions {
  // Of the stream as a whole, and so of all its calls. Default: none.
  std::optional<absl::Duration> timeout;
  // Calls that may be unanswered at a time; at least 1. More hide more of the way to the server, and hold more memory.
  int max_in_flight = 16;
};

// Many calls on one stream of a Client, without a call's own cost: the server carries them out one after the other, in
// the order in which they were made, and so come the answers. A call that fails ends itself and not the stream; its
// timeout in CallOptions does not count, the stream's does. Tensors travel in the messages, whatever the transport;
// those with an owner are not copied.
//
// When the stream breaks (the server goes, the timeout passes), every call without an answer ends with the status of
// the stream, and so does every later one: open another stream. Nothing is sent again by itself; to find out what
// became of a TrainStep, or of a Backward with an optimizer, repeat it with the request_id that its status names.
//
// Thread-safe: calls of several threads are made in some order. The client must outlive its streams.
class StepStream {
 public:
  // Gives up the calls without an answer, with CANCELLED, and waits until every `done` has run. Must not run inside
  // one.
  virtual ~StepStream() = default;

  // Each of these as the method of Client with the same name. `done` runs once, on a thread of the client's, one at a
  // time and in the order of the calls; it must not block. Blocks while max_in_flight calls are unanswered, unless
  // called from inside a `done`. Tensors without an owner are copied before it returns.
  virtual void TrainStep(absl::string_view layer, const TensorView& x, const TrainStepOptions& options,
                         std::function<void(absl::StatusOr<TrainStepResult>)> done) = 0;
  // As TrainStep.
  virtual void Infer(absl::string_view layer, const TensorView& x, const InferOptions& options,
                     std::function<void(absl::StatusOr<InferResult>)> done) = 0;
  // As TrainStep.
  virtual void Denormalize(absl::string_view layer, const TensorView& y, const InferOptions& options,
                           std::function<void(absl::StatusOr<InferResult>)> done) = 0;
  // As TrainStep.
  virtual void Backward(absl::string_view layer, const TensorView& x, const TensorView& dy,
                        const BackwardOptions& options, std::function<void(absl::StatusOr<BackwardResult>)> done) = 0;

  // Makes no more calls, waits until every `done` has run, and says how the stream ended: OK, whatever the calls' own
  // statuses, or why it broke. Must not run inside a `done`. Later calls are FAILED_PRECONDITION.
  virtual absl::Status Finish() = 0;
};

// A tensor that is not in memory as a whole: what it is, and how much of it travels at a time.
struct ChunkedTensor {
  DType dtype = DType::kFloat32;           // Of its elements.
  std::vector<int64_t> shape;              // Extents, outermost first; 2 to 8 of them.
  Layout layout = Layout::kChannelsFirst;  // Where the channels are.
  // Whole elements are sent, so this is rounded down. A few chunks are in memory at a time, here and there.
  int64_t chunk_bytes = int64_t{1} << 20;
};

// Fills `chunk` with the elements that begin `offset_bytes` into the tensor, in TensorView's order. Called on the
// caller's thread with rising offsets, without gaps. A status that is not OK ends the call, which returns it.
using ChunkSource = std::function<absl::Status(int64_t offset_bytes, absl::Span<char> chunk)>;
// Takes such elements of a result. The same rules.
using ChunkSink = std::function<absl::Status(int64_t offset_bytes, absl::Span<const char> chunk)>;

}  // namespace abi_0_1
}  // namespace normd

#endif  // NORMD_STREAM_H_
