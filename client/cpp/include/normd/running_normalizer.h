#ifndef NORMD_RUNNING_NORMALIZER_H_
#define NORMD_RUNNING_NORMALIZER_H_

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "normd/client.h"
#include "normd/moments.h"
#include "normd/tensor.h"

namespace normd::internal {
class LayerVersion;
}  // namespace normd::internal

namespace normd {
inline namespace abi_0_1 {

// Settings of a RunningNormalizer.
struct RunningNormalizerOptions {
  // Make the layer if there is none, with preset "rl_observation" and these bounds. A layer that exists keeps its own.
  bool create = true;
  // Bound on normalized values, > 0; nothing: none.
  std::optional<double> clip = 10.0;
  // Added to the variance before the square root, > 0.
  double eps = 1e-8;

  // From one push in the background to the next, > 0; infinite: none by time.
  absl::Duration push_every = absl::Seconds(1);
  // Push also when Observe was called so many times; 0: only by time.
  int64_t push_batches = 0;
  // Most time that a push in the background takes, and the last one, when the normalizer goes.
  absl::Duration push_timeout = absl::Seconds(10);

  // Name of this normalizer, at most 128 bytes, used by no other one on this layer. Default: a random one. A layer
  // remembers 10,000: give names where many processes come and go. Sequence numbers start at the time, in nanoseconds,
  // so that a process that comes back under its name goes on where it was.
  std::string contributor;
  // Leave NaN and infinity in Observe out, instead of refusing them.
  bool skip_non_finite = false;
  // Gets a line when pushes in the background begin to fail, and when values are lost because the last one did. On any
  // thread; must not block or call the normalizer. Default: prints the line to stderr.
  std::function<void(absl::string_view)> on_warning;
};

// What a normalizer normalizes with: the layer at one version. A plain value.
struct RunningStatistics {
  int64_t version = 0;  // Of the layer.
  // Per channel: what Stable-Baselines3 calls obs_rms.mean; 0 until somebody has pushed.
  std::vector<double> mean;
  // The same of obs_rms.var; 1 until somebody has pushed.
  std::vector<double> var;
  // Observations behind them, of all actors; of the channel that has the most.
  double count = 0;
  double eps = 0;              // Of the layer: added to var before the square root.
  std::optional<double> clip;  // Of the layer: bound on normalized values.
  // Empty on a layer without affine, as rl_observation makes it.
  std::vector<double> gamma;
  std::vector<double> beta;  // As gamma.
};

// Normalizes observations with the statistics of everything that all actors have seen: one layer on the server, and a
// normalizer in each process.
//
//   auto normalizer = normd::RunningNormalizer::Open(client.get(), "agent.obs", 17);
//   if (!normalizer.ok()) return normalizer.status();
//   while (training) {
//     absl::Status status = (*normalizer)->Observe(observations);        // num_envs * 17 floats
//     if (status.ok()) status = (*normalizer)->Normalize(observations, absl::MakeSpan(normalized));
//     ...
//   }
//
// Observe, Normalize and Denormalize work in the calling thread and never wait for the server. Observe adds to a delta
// that no one else has; a push sends it (Client::MergeMoments) and takes over the layer's newest version
// (Client::GetLayer). Normalize uses that version and nothing else: what this process has seen since its last push is
// not in it, so that all actors normalize alike. A thread pushes in the background.
//
// A push that fails loses and repeats nothing: its delta keeps its sequence number, and the layer folds a number in
// once, however often it comes. Later pushes make up for it.
//
// Thread-safe. Not to be used on both sides of a fork: two of them must not be one contributor.
class RunningNormalizer {
 public:
  // `client` must outlive the normalizer. `num_channels`: numbers in an observation; each is a channel, whatever shape
  // the observation has. Asks the server, and starts the thread. NOT_FOUND: no such layer, and not to be made.
  // FAILED_PRECONDITION: the layer has another number of channels, or keeps no running statistics. INVALID_ARGUMENT: an
  // option out of its range. Otherwise, what the server or the connection says.
  static absl::StatusOr<std::unique_ptr<RunningNormalizer>> Open(Client* client, absl::string_view layer,
                                                                 int64_t num_channels,
                                                                 const RunningNormalizerOptions& options = {});
  // Ends the pushes and makes a last one, if anything is left. Waits twice options.push_timeout at the most; what could
  // not be pushed by then is lost, with a warning. Flush before, to know.
  ~RunningNormalizer();
  RunningNormalizer(const RunningNormalizer&) = delete;
  RunningNormalizer& operator=(const RunningNormalizer&) = delete;

  // Adds observations to the delta. A span holds any number of them, one after the other, each of num_channels numbers;
  // a tensor is as one for Client::TrainStep. INVALID_ARGUMENT, and nothing was added: a shape that does not fit, or
  // NaN or infinity unless skip_non_finite is set.
  absl::Status Observe(absl::Span<const float> x) { return Observe(Rows(x)); }
  // The same of float64.
  absl::Status Observe(absl::Span<const double> x) { return Observe(Rows(x)); }
  // The same of a tensor with num_channels channels.
  absl::Status Observe(const TensorView& x);

  // y = gamma * clamp((x - mean) / sqrt(var + eps), -clip, clip) + beta, with the numbers of statistics(): the bits of
  // Client::Infer at that version. `y` is as long as x and may be x; any other overlap is not allowed. NaN stays NaN.
  // INVALID_ARGUMENT, and nothing was written: a shape that does not fit, or a `y` of another length.
  absl::Status Normalize(absl::Span<const float> x, absl::Span<float> y) const { return Normalize(Rows(x), Bytes(y)); }
  // The same of float64.
  absl::Status Normalize(absl::Span<const double> x, absl::Span<double> y) const {
    return Normalize(Rows(x), Bytes(y));
  }
  // The same of a tensor; `y` is as long as x.data.
  absl::Status Normalize(const TensorView& x, absl::Span<char> y) const;

  // The inverse, but for what clip has cut off: the bits of Client::Denormalize. FAILED_PRECONDITION: gamma is 0.
  absl::Status Denormalize(absl::Span<const float> y, absl::Span<float> x) const {
    return Denormalize(Rows(y), Bytes(x));
  }
  // The same of float64.
  absl::Status Denormalize(absl::Span<const double> y, absl::Span<double> x) const {
    return Denormalize(Rows(y), Bytes(x));
  }
  // The same of a tensor; `x` is as long as y.data.
  absl::Status Denormalize(const TensorView& y, absl::Span<char> x) const;

  // The version in use: that of the last push, or of Open. Stays what it is.
  std::shared_ptr<const RunningStatistics> statistics() const;

  // Sends the delta, if there is one, and takes over the newest version. OK: all that was observed before is in the
  // layer. Otherwise what the server or the connection says; what did not reach it is kept for the next push (and
  // pending() says how much that is: it may be nothing, where only the newest version could not be had).
  // DEADLINE_EXCEEDED: not done within `timeout`, of which a push that is under way takes its part.
  absl::Status Flush(absl::Duration timeout = absl::Seconds(30));

  // Observations of this normalizer that are not known to be in the layer.
  int64_t pending() const;
  // How the last push ended, in the background or by Flush; OK before the first.
  absl::Status last_status() const;
  // The name under which this normalizer pushes.
  const std::string& contributor() const { return options_.contributor; }

 private:
  struct Sent {
    int64_t sequence = 0;
    Moments moments;
  };

  RunningNormalizer(Client* client, absl::string_view layer, int64_t num_channels,
                    const RunningNormalizerOptions& options);

  template <typename T>
  TensorView Rows(absl::Span<const T> values) const {
    // Where it is no multiple, no such tensor: refused as that.
    return TensorView(values, {static_cast<int64_t>(values.size()) / num_channels_, num_channels_});
  }
  template <typename T>
  static absl::Span<char> Bytes(absl::Span<T> values) {
    return {reinterpret_cast<char*>(values.data()), values.size() * sizeof(T)};
  }

  absl::StatusOr<Layer> FindOrCreate() const;
  absl::Status TakeOver(const absl::StatusOr<Layer>& layer);
  absl::Status Push(absl::Duration timeout);
  // Sends what was sent before, or else the delta, if there is one.
  absl::Status Send(absl::Duration timeout);
  void PushInBackground();
  std::shared_ptr<const internal::LayerVersion> version() const;

  Client* const client_;
  const std::string layer_;
  const int64_t num_channels_;
  const RunningNormalizerOptions options_;

  // Guards what is below it; never held over a call to the server.
  mutable std::mutex mutex_;
  // Of batches_, pushing_ and stopping_.
  std::condition_variable changed_;
  std::shared_ptr<const internal::LayerVersion> version_;
  Moments delta_;
  // Calls of Observe since the last push began.
  int64_t batches_ = 0;
  // One push at a time.
  bool pushing_ = false;
  // Not known to be folded in.
  std::optional<Sent> sent_;
  int64_t last_sequence_;
  absl::Status last_status_;
  bool stopping_ = false;

  std::thread thread_;
};

}  // namespace abi_0_1
}  // namespace normd

#endif  // NORMD_RUNNING_NORMALIZER_H_
