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
inline namespace abi_0_1 {

// How CreateLayer starts a layer.
struct LayerSpec {
  std::string name;  // Dotted path of letters, digits, _ and -, at most 256 bytes: "resnet50.layer1.0.bn1".
  // num_channels is required; every other field overrides the preset.
  LayerConfig config;
  // reference (default), pytorch, keras, keras_fused, flax, haiku, standard_scaler, rl_observation.
  std::string preset;
  std::optional<LayerState> initial_state;  // As for SetState; default: fresh.
};

// What Client::ListLayers lists.
struct ListLayersOptions {
  std::string prefix;  // Only names that start with it; empty: all.
  // 1 to 1000.
  int page_size = 100;
  // next_page_token of the page before.
  std::string page_token;
  bool with_state = false;  // Fetch Layer::state too.
};

// What Client::ListLayers returns.
struct LayerPage {
  std::vector<Layer> layers;  // By name, in byte order.
  // Empty: this was the last page.
  std::string next_page_token;
};

// Settings of Client::ForkLayer.
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

// Settings of Client::TrainStep.
struct TrainStepOptions : CallOptions {
  // New gamma of the layer, num_channels of them: used for y and stored in the same atomic step. Together with beta.
  std::vector<double> gamma;
  std::vector<double> beta;  // As gamma.
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

// What Client::TrainStep returns.
struct TrainStepResult {
  // The normalized batch, in x's dtype, shape and layout. Without elements with omit_output and `into`.
  Tensor y;
  std::vector<double> batch_mean;   // Of this batch, per channel; Backward wants it. NaN in a skipped channel.
  std::vector<double> batch_var;    // The population variance of this batch, per channel; Backward wants it.
  int64_t version = 0;              // Of the layer: the one that this step made, or (skip_update) read.
  std::string content_hash;         // Of that version.
  int64_t num_batches_tracked = 0;  // Steps and merges folded in up to that version.
  // Channels that held NaN or infinity, under NonFinitePolicy::kSkipChannel.
  std::vector<int64_t> skipped_channels;
  // The server had seen this request_id before and folded nothing in now.
  bool replayed = false;
};

// Settings of Client::Infer and Client::Denormalize.
struct InferOptions : CallOptions {
  // The version that must answer; 0: the newest.
  int64_t version = 0;
  // Where the result goes, instead of into InferResult::output; as TrainStepOptions::into.
  absl::Span<char> into = {};
};

// What Client::Infer and Client::Denormalize return.
struct InferResult {
  // In the input's dtype, shape and layout. Without elements with `into`.
  Tensor output;
  int64_t version = 0;       // Of the layer that answered.
  std::string content_hash;  // Of that version.
};

// Settings of Client::Backward.
struct BackwardOptions : CallOptions {
  // Differentiate Infer instead of TrainStep; batch_mean and batch_var stay empty then.
  bool frozen = false;
  std::vector<double> batch_mean;  // As TrainStep returned it; required unless frozen.
  std::vector<double> batch_var;   // As batch_mean.
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

// What Client::Backward returns.
struct BackwardResult {
  // Gradient of the loss by x, in x's dtype, shape and layout. Without elements with omit_dx and `into`.
  Tensor dx;
  std::vector<double> dgamma;  // Gradient by gamma, per channel. Empty on a layer without affine.
  std::vector<double> dbeta;   // Gradient by beta, per channel. Empty on a layer without affine.
  std::vector<double> gamma;   // After the optimizer's step; empty without one.
  std::vector<double> beta;    // After the optimizer's step; empty without one.
  int64_t version = 0;         // Of the layer: the one that the optimizer's step made, or that was read.
  std::string content_hash;    // Of that version.
  // The server had seen this request_id before and took no step now.
  bool replayed = false;
};

// Settings of Client::MergeMoments.
struct MergeMomentsOptions : CallOptions {
  // Whose values these are, at most 128 bytes: a name that no other caller uses on this layer. With it a repeated merge
  // is recognised as long as the layer lives, also when its request_id is forgotten.
  std::string contributor;
  // With a contributor: > 0 and above that of its merge before. One that is not is a repetition and folds nothing in.
  // So a contributor makes one merge after the other. Without: 0.
  int64_t sequence = 0;
};

// What Client::MergeMoments returns: the layer's statistics with the moments in them, all of one version.
struct MergeMomentsResult {
  int64_t version = 0;               // That the merge made; of a repetition, the present one.
  std::string content_hash;          // Of that version.
  std::vector<double> running_mean;  // Per channel.
  std::vector<double> running_var;   // Per channel, in the layer's estimator.
  // Values folded into each channel.
  std::vector<double> sample_count;
  // Steps and merges folded in.
  int64_t num_batches_tracked = 0;
  // The server had folded this request_id or sequence in before, and folded nothing in now.
  bool replayed = false;
};

// What Client::Health returns.
enum class ServingStatus {
  kUnknown,     // The server does not say.
  kServing,     // It takes calls.
  kNotServing,  // It is starting, or on its way out.
};

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

  // Makes a layer and returns it without its state. ALREADY_EXISTS: the name is taken. INVALID_ARGUMENT: a bad name, an
  // unknown preset, a value out of its range. RESOURCE_EXHAUSTED: the server holds as many layers as it may.
  virtual absl::StatusOr<Layer> CreateLayer(const LayerSpec& spec, const CallOptions& options = {}) = 0;
  // The layer at its newest version. `with_state`: fetch Layer::state too. NOT_FOUND: no such layer, here and in all
  // methods that name one.
  virtual absl::StatusOr<Layer> GetLayer(absl::string_view name, bool with_state = false,
                                         const CallOptions& options = {}) = 0;
  // Layers by name, a page at a time.
  virtual absl::StatusOr<LayerPage> ListLayers(const ListLayersOptions& list = {}, const CallOptions& options = {}) = 0;
  // Changes `fields` (eps, update_weight, normalize_training_with, clip, non_finite_policy, frozen) to their values
  // in `config`, and returns the layer without its state. A non-empty etag must be the layer's present one, or the call
  // is ABORTED. FAILED_PRECONDITION: a field is immutable, or the layer is frozen.
  virtual absl::StatusOr<Layer> UpdateLayer(absl::string_view name, const LayerConfig& config,
                                            const std::vector<std::string>& fields, absl::string_view etag = "",
                                            const CallOptions& options = {}) = 0;
  // Deletes a layer and its state, a frozen one too. `etag` as for UpdateLayer.
  virtual absl::Status DeleteLayer(absl::string_view name, absl::string_view etag = "",
                                   const CallOptions& options = {}) = 0;
  // Sets running statistics and counters back to their start (mean 0, variance 1, counts 0); gamma and beta stay. A
  // non-zero expected_version must be the layer's present one, or the call is ABORTED.
  virtual absl::StatusOr<Layer> ResetStatistics(absl::string_view name, int64_t expected_version = 0,
                                                const CallOptions& options = {}) = 0;
  // Overwrites what `state` holds; its empty lists leave that part as it is. running_mean and running_var are given
  // together, likewise gamma and beta; a pooled layer needs sample_count with the statistics, elsewhere counts that are
  // not given become 0. `reset_optimizer`: also forget the buffers of Backward's steps. expected_version as above.
  virtual absl::StatusOr<Layer> SetState(absl::string_view name, const LayerState& state, int64_t expected_version = 0,
                                         bool reset_optimizer = false, const CallOptions& options = {}) = 0;

  // Makes the layer `new_name` out of another one, with its settings and state: for a domain or an experiment of its
  // own. ALREADY_EXISTS: the name is taken. FAILED_PRECONDITION: the version is no longer kept.
  virtual absl::StatusOr<Layer> ForkLayer(absl::string_view name, absl::string_view new_name,
                                          const ForkOptions& options = {}) = 0;
  // Streams the versions of layers (normd/watch.h). Returns at once; what is wrong shows in LayerWatch::Next. The
  // client outlives it.
  virtual std::unique_ptr<LayerWatch> Watch(const WatchOptions& options) = 0;

  // Keeps the selected layers as they are now, all of one moment, under a name. ALREADY_EXISTS: the name is taken.
  // NOT_FOUND: nothing is selected.
  virtual absl::StatusOr<Snapshot> CreateSnapshot(absl::string_view name, const LayerSelection& selection = {},
                                                  const CallOptions& options = {}) = 0;
  // The snapshots whose names start with `prefix`, by name.
  virtual absl::StatusOr<std::vector<Snapshot>> ListSnapshots(absl::string_view prefix = "",
                                                              const CallOptions& options = {}) = 0;
  // Brings layers of a snapshot back as they were, all in one step: one that exists and differs gets a new version, one
  // that does not is made again. Returns how many. NOT_FOUND: no such snapshot, or nothing is selected.
  // FAILED_PRECONDITION: a layer is frozen.
  virtual absl::StatusOr<int64_t> RestoreSnapshot(absl::string_view name, const RestoreSelection& selection = {},
                                                  const CallOptions& options = {}) = 0;
  // Deletes a snapshot; the layers stay as they are. NOT_FOUND: no such snapshot.
  virtual absl::Status DeleteSnapshot(absl::string_view name, const CallOptions& options = {}) = 0;
  // Hands a copy of the server's store as of one moment, a file that a server can be started with, to `sink`, in pieces
  // and on this thread. Returns its length in bytes. Takes as long as it needs unless options.timeout says otherwise,
  // and is not tried again by itself. FAILED_PRECONDITION: the server keeps its state in memory only.
  virtual absl::StatusOr<int64_t> Backup(const BackupSink& sink, const CallOptions& options = {}) = 0;
  // Brings layers of a backup back as RestoreSnapshot does; takes its time as Backup does. Returns how many. DATA_LOSS:
  // it is damaged. FAILED_PRECONDITION: it is no backup, or of a newer normd, or a layer is frozen.
  virtual absl::StatusOr<int64_t> RestoreBackup(const BackupSource& source, const RestoreSelection& selection = {},
                                                const CallOptions& options = {}) = 0;

  // A tensor to be filled and sent, or to be written to as `into`; its elements are unspecified. Its memory is this
  // client's, kept warm: it goes back when the tensor and its copies are gone, which may be after the client. With
  // Transport::kSharedMemory the server reads and writes it where it stands, so that nothing is copied at all (results
  // without `into` stand there too). Errors as of Tensor::Allocate.
  virtual absl::StatusOr<Tensor> AllocateTensor(DType dtype, std::vector<int64_t> shape,
                                                Layout layout = Layout::kChannelsFirst) = 0;

  // Normalizes a batch as the layer's settings say (batch normalization: with the batch's own mean and variance) and
  // folds its statistics into the running ones, in one atomic step. x has rank 2 to 8 and the layer's num_channels.
  // INVALID_ARGUMENT: x does not fit the layer, or holds NaN or infinity (NonFinitePolicy::kReject).
  // FAILED_PRECONDITION: the layer is frozen. RESOURCE_EXHAUSTED: x is too large for one message, or no room; in both
  // cases nothing has changed.
  virtual absl::StatusOr<TrainStepResult> TrainStep(absl::string_view layer, const TensorView& x,
                                                    const TrainStepOptions& options = {}) = 0;
  // y = gamma * (x - running_mean) / sqrt(running_var + eps) + beta, per channel. Changes nothing. INVALID_ARGUMENT: x
  // does not fit the layer. FAILED_PRECONDITION: options.version is no longer kept.
  virtual absl::StatusOr<InferResult> Infer(absl::string_view layer, const TensorView& x,
                                            const InferOptions& options = {}) = 0;
  // The inverse of Infer, but for what clip has cut off. FAILED_PRECONDITION: as Infer, or gamma is 0.
  virtual absl::StatusOr<InferResult> Denormalize(absl::string_view layer, const TensorView& y,
                                                  const InferOptions& options = {}) = 0;
  // Gradients of a loss by x, gamma and beta, from dy, its gradient by the y of TrainStep (or, frozen, of Infer); dy
  // has x's dtype, shape and layout. With an optimizer, also a step on the layer's gamma and beta, atomically.
  // INVALID_ARGUMENT: tensors that do not fit the layer or each other, or batch statistics missing.
  // FAILED_PRECONDITION: TrainStep does not normalize with batch statistics; an optimizer, but the layer is frozen.
  virtual absl::StatusOr<BackwardResult> Backward(absl::string_view layer, const TensorView& x, const TensorView& dy,
                                                  const BackwardOptions& options = {}) = 0;

  // Folds the moments of values that stay here into the layer, in one atomic step: to the layer, a TrainStep with those
  // values. On a pooled layer any split of the values and any order of merges gives the statistics of one pass over all
  // of them; on another, each merge counts as one batch. RunningNormalizer (normd/running_normalizer.h) does this in
  // the background for observations that come one after the other. FAILED_PRECONDITION: the layer keeps no running
  // statistics, or is frozen. RESOURCE_EXHAUSTED: it knows 10,000 contributors already.
  virtual absl::StatusOr<MergeMomentsResult> MergeMoments(absl::string_view layer, const Moments& moments,
                                                          const MergeMomentsOptions& options = {}) = 0;

  // Whether the server takes calls (grpc.health.v1). `service`: a service's full name; empty: the server as a whole.
  // NOT_FOUND: the server has no such service.
  virtual absl::StatusOr<ServingStatus> Health(absl::string_view service = "", const CallOptions& options = {}) = 0;

  // What the server does, for those who run it (normd/admin.h). `max_layers`, 1 to 10000: those with the most steps
  // since the server started; 0: 100.
  virtual absl::StatusOr<ServerStatistics> GetStatistics(int max_layers = 0, const CallOptions& options = {}) = 0;
  // Which log lines the server writes.
  virtual absl::StatusOr<LogLevel> GetLogLevel(const CallOptions& options = {}) = 0;
  // Changes that until the server stops. Returns the level before.
  virtual absl::StatusOr<LogLevel> SetLogLevel(LogLevel level, const CallOptions& options = {}) = 0;

  // TrainStep without waiting, as are the next three. `done` runs once, on a thread of the client's; it must not block,
  // and may start new calls. Tensors without an owner are copied before the call returns; `into` is written to before
  // `done` runs.
  virtual void TrainStepAsync(absl::string_view layer, const TensorView& x, const TrainStepOptions& options,
                              std::function<void(absl::StatusOr<TrainStepResult>)> done) = 0;
  // Infer without waiting.
  virtual void InferAsync(absl::string_view layer, const TensorView& x, const InferOptions& options,
                          std::function<void(absl::StatusOr<InferResult>)> done) = 0;
  // Denormalize without waiting.
  virtual void DenormalizeAsync(absl::string_view layer, const TensorView& y, const InferOptions& options,
                                std::function<void(absl::StatusOr<InferResult>)> done) = 0;
  // Backward without waiting.
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

}  // namespace abi_0_1
}  // namespace normd

#endif  // NORMD_CLIENT_H_
