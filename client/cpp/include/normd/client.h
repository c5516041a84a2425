#ifndef NORMD_CLIENT_H_
#define NORMD_CLIENT_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "normd/admin.h"
#include "normd/layer.h"
#include "normd/moments.h"
#include "normd/options.h"
#include "normd/snapshot.h"
#include "normd/stream.h"
#include "normd/tensor.h"
#include "normd/watch.h"

namespace normd {

// How CreateLayer starts a layer.
struct LayerSpec {
  std::string name;
  // num_channels is required; every other field overrides the preset.
  LayerConfig config;
  // reference (default), pytorch, keras, keras_fused, flax, haiku, standard_scaler, rl_observation.
  std::string preset;
  std::optional<LayerState> initial_state;
};

struct ListLayersOptions {
  std::string prefix;
  // 1 to 1000.
  int page_size = 100;
  // next_page_token of the page before.
  std::string page_token;
  bool with_state = false;
};

struct LayerPage {
  std::vector<Layer> layers;
  // Empty: this was the last page.
  std::string next_page_token;
};

struct ForkOptions : CallOptions {
  // The version to start from, if the server still keeps it; 0: the newest.
  int64_t version = 0;
  // Share gamma, beta and the optimizer's state with the layer from now on.
  bool share_affine = false;
  // Start with fresh statistics.
  bool reset_statistics = false;
};

// Takes the next bytes of a backup, which has `total_bytes` in all. A status that is not OK ends the call with it.
using BackupSink = std::function<absl::Status(absl::string_view piece, int64_t total_bytes)>;
// Fills in the next bytes of a backup and says how many; 0: there are no more.
using BackupSource = std::function<absl::StatusOr<std::size_t>(absl::Span<char> piece)>;

struct TrainStepOptions : CallOptions {
  // New gamma and beta of the layer, stored in the same atomic step; both or neither.
  std::vector<double> gamma;
  std::vector<double> beta;
  // Do not return y.
  bool omit_output = false;
  // Normalize, but store nothing.
  bool skip_update = false;
  // Where y goes, instead of into TrainStepResult::y, which then has no elements. As long as x, whose memory it may be.
  // Must stay until the call has ended. Nothing is written unless the call succeeds, with one exception: into memory of
  // AllocateTensor that is not x's, with Transport::kSharedMemory, the server writes itself. There a call that fails
  // may have written, and one that fails without an answer (DEADLINE_EXCEEDED, UNAVAILABLE, CANCELLED) may still write:
  // let go of the tensor then, it is not lent to anybody before that is over.
  absl::Span<char> into = {};
};

struct TrainStepResult {
  // Without elements with omit_output and `into`.
  Tensor y;
  // Of this batch, per channel; var is the population variance. Backward wants both.
  std::vector<double> batch_mean;
  std::vector<double> batch_var;
  int64_t version = 0;
  std::string content_hash;
  int64_t num_batches_tracked = 0;
  // Channels that held NaN or infinity, under NonFinitePolicy::kSkipChannel.
  std::vector<int64_t> skipped_channels;
  // The server had seen this request_id before and folded nothing in now.
  bool replayed = false;
};

struct InferOptions : CallOptions {
  // The version that must answer; 0: the newest.
  int64_t version = 0;
  // Where the result goes, instead of into InferResult::output; as TrainStepOptions::into.
  absl::Span<char> into = {};
};

// Of Infer and Denormalize.
struct InferResult {
  // Without elements with `into`.
  Tensor output;
  int64_t version = 0;
  std::string content_hash;
};

struct BackwardOptions : CallOptions {
  // Differentiate Infer instead of TrainStep; batch_mean and batch_var stay empty then.
  bool frozen = false;
  std::vector<double> batch_mean;
  std::vector<double> batch_var;
  // The gamma of the forward pass; empty: the layer's.
  std::vector<double> gamma;
  // Apply a step to the layer's gamma and beta.
  std::variant<std::monostate, Sgd, Adam> optimizer;
  // Do not return dx.
  bool omit_dx = false;
  // Frozen only: the version that Infer answered with; 0: the newest.
  int64_t version = 0;
  // Where dx goes, instead of into BackwardResult::dx; as TrainStepOptions::into. May be the memory of x or dy.
  absl::Span<char> into = {};
};

struct BackwardResult {
  // Without elements with omit_dx and `into`.
  Tensor dx;
  // Empty on a layer without affine.
  std::vector<double> dgamma;
  std::vector<double> dbeta;
  // After the optimizer's step; empty without one.
  std::vector<double> gamma;
  std::vector<double> beta;
  int64_t version = 0;
  std::string content_hash;
  bool replayed = false;
};

struct MergeMomentsOptions : CallOptions {
  // Whose values these are, at most 128 bytes: a name that no other caller uses on this layer. With it a repeated merge
  // is recognised as long as the layer lives, also when its request_id is forgotten.
  std::string contributor;
  // With a contributor: > 0 and above that of its merge before. One that is not is a repetition and folds nothing in.
  // So a contributor makes one merge after the other. Without: 0.
  int64_t sequence = 0;
};

// The layer's statistics with the moments in them, all of one version.
struct MergeMomentsResult {
  int64_t version = 0;
  std::string content_hash;
  std::vector<double> running_mean;
  std::vector<double> running_var;
  // Values folded into each channel.
  std::vector<double> sample_count;
  // Steps and merges folded in.
  int64_t num_batches_tracked = 0;
  // The server had folded this request_id or sequence in before, and folded nothing in now.
  bool replayed = false;
};

// Of Health.
enum class ServingStatus { kUnknown, kServing, kNotServing };

// A connection to a normd server. Thread-safe; make one and share it: every Client has a connection of its own.
//
// Statuses are the server's (proto/normd/v1), or: UNAVAILABLE, the server could not be reached in time, after retries;
// DEADLINE_EXCEEDED, the call's timeout passed (a mutation may or may not have happened: repeat it with the same
// request_id to find out). Every method but TrainStep, MergeMoments and Backward with an optimizer is idempotent by
// nature; the mutations among them are made so by a request_id, which the client adds unasked.
//
// Costs: a tensor is copied once on its way out, unless its TensorView has an owner, and once on its way in, from
// gRPC's pieces to where it ends up. The memory for both is kept and reused.
class Client {
 public:
  // `target`: "host:port", or "unix:/path/to/socket". Returns at once; the first call connects.
  static std::unique_ptr<Client> Connect(absl::string_view target, const ClientOptions& options = {});
  // Waits for the asynchronous calls that are under way; so it must not run inside the `done` of one.
  virtual ~Client() = default;

  virtual absl::StatusOr<Layer> CreateLayer(const LayerSpec& spec, const CallOptions& options = {}) = 0;
  // `with_state`: fetch Layer::state too.
  virtual absl::StatusOr<Layer> GetLayer(absl::string_view name, bool with_state = false,
                                         const CallOptions& options = {}) = 0;
  virtual absl::StatusOr<LayerPage> ListLayers(const ListLayersOptions& list = {}, const CallOptions& options = {}) = 0;
  // Changes `fields` (eps, update_weight, normalize_training_with, clip, non_finite_policy, frozen) to their values
  // in `config`. A non-empty etag must be the layer's present one, or the call is ABORTED.
  virtual absl::StatusOr<Layer> UpdateLayer(absl::string_view name, const LayerConfig& config,
                                            const std::vector<std::string>& fields, absl::string_view etag = "",
                                            const CallOptions& options = {}) = 0;
  virtual absl::Status DeleteLayer(absl::string_view name, absl::string_view etag = "",
                                   const CallOptions& options = {}) = 0;
  // A non-zero expected_version must be the layer's present one, or the call is ABORTED.
  virtual absl::StatusOr<Layer> ResetStatistics(absl::string_view name, int64_t expected_version = 0,
                                                const CallOptions& options = {}) = 0;
  // Overwrites what `state` holds; see SetStateRequest in proto/normd/v1/layer_service.proto.
  virtual absl::StatusOr<Layer> SetState(absl::string_view name, const LayerState& state, int64_t expected_version = 0,
                                         bool reset_optimizer = false, const CallOptions& options = {}) = 0;

  // Makes the layer `new_name` out of another one; see ForkLayerRequest in proto/normd/v1/layer_service.proto.
  virtual absl::StatusOr<Layer> ForkLayer(absl::string_view name, absl::string_view new_name,
                                          const ForkOptions& options = {}) = 0;
  // Streams the versions of layers (normd/watch.h). Returns at once; what is wrong shows in LayerWatch::Next. The
  // client outlives it.
  virtual std::unique_ptr<LayerWatch> Watch(const WatchOptions& options) = 0;

  // Named snapshots and backups of the server; see proto/normd/v1/snapshot_service.proto. ALREADY_EXISTS: the name is
  // taken. NOT_FOUND: nothing is selected.
  virtual absl::StatusOr<Snapshot> CreateSnapshot(absl::string_view name, const LayerSelection& selection = {},
                                                  const CallOptions& options = {}) = 0;
  virtual absl::StatusOr<std::vector<Snapshot>> ListSnapshots(absl::string_view prefix = "",
                                                              const CallOptions& options = {}) = 0;
  // Returns how many layers are brought back.
  virtual absl::StatusOr<int64_t> RestoreSnapshot(absl::string_view name, const RestoreSelection& selection = {},
                                                  const CallOptions& options = {}) = 0;
  virtual absl::Status DeleteSnapshot(absl::string_view name, const CallOptions& options = {}) = 0;
  // These take as long as they need unless options.timeout says otherwise, and are not tried again by themselves.
  // Backup returns the length.
  virtual absl::StatusOr<int64_t> Backup(const BackupSink& sink, const CallOptions& options = {}) = 0;
  virtual absl::StatusOr<int64_t> RestoreBackup(const BackupSource& source, const RestoreSelection& selection = {},
                                                const CallOptions& options = {}) = 0;

  // A tensor to be filled and sent, or to be written to as `into`; its elements are unspecified. Its memory is this
  // client's, kept warm: it goes back when the tensor and its copies are gone, which may be after the client. With
  // Transport::kSharedMemory the server reads and writes it where it stands, so that nothing is copied at all (results
  // without `into` stand there too). Errors as of Tensor::Allocate.
  virtual absl::StatusOr<Tensor> AllocateTensor(DType dtype, std::vector<int64_t> shape,
                                                Layout layout = Layout::kChannelsFirst) = 0;

  virtual absl::StatusOr<TrainStepResult> TrainStep(absl::string_view layer, const TensorView& x,
                                                    const TrainStepOptions& options = {}) = 0;
  virtual absl::StatusOr<InferResult> Infer(absl::string_view layer, const TensorView& x,
                                            const InferOptions& options = {}) = 0;
  virtual absl::StatusOr<InferResult> Denormalize(absl::string_view layer, const TensorView& y,
                                                  const InferOptions& options = {}) = 0;
  virtual absl::StatusOr<BackwardResult> Backward(absl::string_view layer, const TensorView& x, const TensorView& dy,
                                                  const BackwardOptions& options = {}) = 0;

  // Folds the moments of values that stay here into the layer, in one atomic step: to the layer, a TrainStep with those
  // values. On a pooled layer any split of the values and any order of merges gives the statistics of one pass over all
  // of them; on another, each merge counts as one batch. RunningNormalizer (normd/running_normalizer.h) does this in
  // the background for observations that come one after the other.
  virtual absl::StatusOr<MergeMomentsResult> MergeMoments(absl::string_view layer, const Moments& moments,
                                                          const MergeMomentsOptions& options = {}) = 0;

  // Whether the server takes calls (grpc.health.v1). `service`: a service's full name; empty: the server as a whole.
  // NOT_FOUND: the server has no such service.
  virtual absl::StatusOr<ServingStatus> Health(absl::string_view service = "", const CallOptions& options = {}) = 0;

  // For those who run the server (normd/admin.h). `max_layers`, 1 to 10000: those with the most steps since the server
  // started; 0: 100.
  virtual absl::StatusOr<ServerStatistics> GetStatistics(int max_layers = 0, const CallOptions& options = {}) = 0;
  virtual absl::StatusOr<LogLevel> GetLogLevel(const CallOptions& options = {}) = 0;
  // Until the server stops. Returns the level before.
  virtual absl::StatusOr<LogLevel> SetLogLevel(LogLevel level, const CallOptions& options = {}) = 0;

  // The same without waiting. `done` runs once, on a thread of the client's; it must not block, and may start new
  // calls. Tensors without an owner are copied before the call returns; `into` is written to before `done` runs.
  virtual void TrainStepAsync(absl::string_view layer, const TensorView& x, const TrainStepOptions& options,
                              std::function<void(absl::StatusOr<TrainStepResult>)> done) = 0;
  virtual void InferAsync(absl::string_view layer, const TensorView& x, const InferOptions& options,
                          std::function<void(absl::StatusOr<InferResult>)> done) = 0;
  virtual void DenormalizeAsync(absl::string_view layer, const TensorView& y, const InferOptions& options,
                                std::function<void(absl::StatusOr<InferResult>)> done) = 0;
  virtual void BackwardAsync(absl::string_view layer, const TensorView& x, const TensorView& dy,
                             const BackwardOptions& options,
                             std::function<void(absl::StatusOr<BackwardResult>)> done) = 0;

  // Opens a stream for many calls (normd/stream.h). Returns at once; what is wrong with the server shows in the calls.
  virtual std::unique_ptr<StepStream> OpenSteps(const StepStreamOptions& options = {}) = 0;

  // Infer and TrainStep for a tensor of any size, in chunks, with memory for a few of them here and in the server. They
  // block, and are not tried again by themselves: a source may not be able to start anew. `into` is not looked at; the
  // result's tensor has no elements. When a call fails, the sink may have got some chunks already.
  virtual absl::StatusOr<InferResult> InferChunked(absl::string_view layer, const ChunkedTensor& x,
                                                   const ChunkSource& source, const ChunkSink& sink,
                                                   const InferOptions& options = {}) = 0;
  // The batch is read once for its statistics, which are folded into the layer when it is complete; then, unless `sink`
  // is null or omit_output is set, a second time, from offset 0, to be normalized with them. A call that fails in the
  // second pass has changed the layer.
  virtual absl::StatusOr<TrainStepResult> TrainStepChunked(absl::string_view layer, const ChunkedTensor& x,
                                                           const ChunkSource& source, const ChunkSink& sink,
                                                           const TrainStepOptions& options = {}) = 0;
};

}  // namespace normd

#endif  // NORMD_CLIENT_H_
