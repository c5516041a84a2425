#include "client/cpp/src/client.h"

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/cpp/src/admin.h"
#include "client/cpp/src/backup.h"
#include "client/cpp/src/chunked_call.h"
#include "client/cpp/src/connection.h"
#include "client/cpp/src/convert.h"
#include "client/cpp/src/memory.h"
#include "client/cpp/src/shared_call.h"
#include "client/cpp/src/shared_memory.h"
#include "client/cpp/src/step_stream.h"
#include "client/cpp/src/tensor_call.h"
#include "client/cpp/src/watch.h"

namespace normd {
namespace internal {
namespace {

// For shared memory to be made, before a tensor goes another way.
constexpr absl::Duration kLongestWait = absl::Seconds(5);

v1::LayerView ViewOf(bool with_state) { return with_state ? v1::LAYER_VIEW_STATE : v1::LAYER_VIEW_CONFIG; }

template <typename Response>
absl::StatusOr<Layer> LayerOf(const absl::StatusOr<Response>& response) {
  if (!response.ok()) return response.status();
  return FromProto(response->layer());
}

class GrpcClient : public Client {
 public:
  GrpcClient(absl::string_view target, const ClientOptions& options, std::shared_ptr<Runtime> runtime)
      : connection_(std::make_unique<Connection>(target, options, runtime)) {
    if (options.transport == Transport::kSharedMemory) {
      shared_memory_ = std::make_unique<SharedMemory>(connection_->channel(), options, std::move(runtime));
    }
  }

  // The calls use both, and end before either goes.
  ~GrpcClient() override {
    connection_->Wait();
    shared_memory_.reset();
  }

  absl::StatusOr<Layer> CreateLayer(const LayerSpec& spec, const CallOptions& options) override {
    v1::CreateLayerRequest request;
    request.set_name(spec.name);
    *request.mutable_config() = ToProto(spec.config);
    request.set_preset(spec.preset);
    if (spec.initial_state) *request.mutable_initial_state() = ToProto(*spec.initial_state);
    request.set_request_id(RequestId(options));
    return LayerOf(connection_->Call<v1::CreateLayerResponse>(request, options, request.request_id()));
  }

  absl::StatusOr<Layer> GetLayer(absl::string_view name, bool with_state, const CallOptions& options) override {
    v1::GetLayerRequest request;
    request.set_name(name.data(), name.size());
    request.set_view(ViewOf(with_state));
    return LayerOf(connection_->Call<v1::GetLayerResponse>(request, options));
  }

  absl::StatusOr<LayerPage> ListLayers(const ListLayersOptions& list, const CallOptions& options) override {
    v1::ListLayersRequest request;
    request.set_prefix(list.prefix);
    request.set_page_size(list.page_size);
    request.set_page_token(list.page_token);
    request.set_view(ViewOf(list.with_state));
    absl::StatusOr<v1::ListLayersResponse> response = connection_->Call<v1::ListLayersResponse>(request, options);
    if (!response.ok()) return response.status();
    LayerPage page;
    page.layers.reserve(response->layers_size());
    for (const v1::Layer& layer : response->layers()) page.layers.push_back(FromProto(layer));
    page.next_page_token = std::move(*response->mutable_next_page_token());
    return page;
  }

  absl::StatusOr<Layer> UpdateLayer(absl::string_view name, const LayerConfig& config,
                                    const std::vector<std::string>& fields, absl::string_view etag,
                                    const CallOptions& options) override {
    v1::UpdateLayerRequest request;
    request.set_name(name.data(), name.size());
    *request.mutable_config() = ToProto(config);
    for (const std::string& field : fields) request.mutable_update_mask()->add_paths(field);
    request.set_etag(etag.data(), etag.size());
    request.set_request_id(RequestId(options));
    return LayerOf(connection_->Call<v1::UpdateLayerResponse>(request, options, request.request_id()));
  }

  absl::Status DeleteLayer(absl::string_view name, absl::string_view etag, const CallOptions& options) override {
    v1::DeleteLayerRequest request;
    request.set_name(name.data(), name.size());
    request.set_etag(etag.data(), etag.size());
    request.set_request_id(RequestId(options));
    return connection_->Call<v1::DeleteLayerResponse>(request, options, request.request_id()).status();
  }

  absl::StatusOr<Layer> ResetStatistics(absl::string_view name, int64_t expected_version,
                                        const CallOptions& options) override {
    v1::ResetStatisticsRequest request;
    request.set_name(name.data(), name.size());
    request.set_expected_version(expected_version);
    request.set_request_id(RequestId(options));
    return LayerOf(connection_->Call<v1::ResetStatisticsResponse>(request, options, request.request_id()));
  }

  absl::StatusOr<Layer> SetState(absl::string_view name, const LayerState& state, int64_t expected_version,
                                 bool reset_optimizer, const CallOptions& options) override {
    v1::SetStateRequest request;
    request.set_name(name.data(), name.size());
    *request.mutable_state() = ToProto(state);
    request.set_expected_version(expected_version);
    request.set_reset_optimizer(reset_optimizer);
    request.set_request_id(RequestId(options));
    return LayerOf(connection_->Call<v1::SetStateResponse>(request, options, request.request_id()));
  }

  absl::StatusOr<Layer> ForkLayer(absl::string_view name, absl::string_view new_name,
                                  const ForkOptions& options) override {
    v1::ForkLayerRequest request;
    request.set_name(name.data(), name.size());
    request.set_new_name(new_name.data(), new_name.size());
    request.set_version(options.version);
    request.set_share_affine(options.share_affine);
    request.set_reset_statistics(options.reset_statistics);
    request.set_request_id(RequestId(options));
    return LayerOf(connection_->Call<v1::ForkLayerResponse>(request, options, request.request_id()));
  }

  std::unique_ptr<LayerWatch> Watch(const WatchOptions& options) override {
    return OpenWatch(connection_.get(), options);
  }

  absl::StatusOr<Snapshot> CreateSnapshot(absl::string_view name, const LayerSelection& selection,
                                          const CallOptions& options) override {
    v1::CreateSnapshotRequest request;
    request.set_name(name.data(), name.size());
    request.set_layer(selection.layer);
    request.set_prefix(selection.prefix);
    request.set_request_id(RequestId(options));
    absl::StatusOr<v1::CreateSnapshotResponse> response =
        connection_->Call<v1::CreateSnapshotResponse>(request, options, request.request_id());
    if (!response.ok()) return response.status();
    return FromProto(response->snapshot());
  }

  absl::StatusOr<std::vector<Snapshot>> ListSnapshots(absl::string_view prefix, const CallOptions& options) override {
    v1::ListSnapshotsRequest request;
    request.set_prefix(prefix.data(), prefix.size());
    absl::StatusOr<v1::ListSnapshotsResponse> response = connection_->Call<v1::ListSnapshotsResponse>(request, options);
    if (!response.ok()) return response.status();
    std::vector<Snapshot> snapshots;
    snapshots.reserve(response->snapshots_size());
    for (const v1::Snapshot& snapshot : response->snapshots()) snapshots.push_back(FromProto(snapshot));
    return snapshots;
  }

  absl::StatusOr<int64_t> RestoreSnapshot(absl::string_view name, const RestoreSelection& selection,
                                          const CallOptions& options) override {
    v1::RestoreSnapshotRequest request;
    request.set_name(name.data(), name.size());
    *request.mutable_selection() = ToProto(selection);
    request.set_request_id(RequestId(options));
    absl::StatusOr<v1::RestoreSnapshotResponse> response =
        connection_->Call<v1::RestoreSnapshotResponse>(request, options, request.request_id());
    if (!response.ok()) return response.status();
    return response->num_layers();
  }

  absl::Status DeleteSnapshot(absl::string_view name, const CallOptions& options) override {
    v1::DeleteSnapshotRequest request;
    request.set_name(name.data(), name.size());
    request.set_request_id(RequestId(options));
    return connection_->Call<v1::DeleteSnapshotResponse>(request, options, request.request_id()).status();
  }

  absl::StatusOr<int64_t> Backup(const BackupSink& sink, const CallOptions& options) override {
    return internal::Backup(connection_.get(), sink, options);
  }

  absl::StatusOr<int64_t> RestoreBackup(const BackupSource& source, const RestoreSelection& selection,
                                        const CallOptions& options) override {
    return internal::RestoreBackup(connection_.get(), source, selection, options);
  }

  absl::StatusOr<Tensor> AllocateTensor(DType dtype, std::vector<int64_t> shape, Layout layout) override {
    const absl::StatusOr<std::size_t> size = CheckedBytesOf(shape, dtype);
    if (!size.ok()) return size.status();
    std::shared_ptr<char> memory;
    if (shared_memory_ != nullptr && shared_memory_->Wants(*size))
      memory = shared_memory_->Acquire(*size, kLongestWait);
    if (memory == nullptr) memory = PooledMemory(*size, &connection_->buffers());
    if (memory == nullptr) return absl::ResourceExhaustedError(absl::StrCat("no memory for ", *size, " bytes"));
    return Tensor(dtype, std::move(shape), layout, std::move(memory), *size);
  }

  absl::StatusOr<TrainStepResult> TrainStep(absl::string_view layer, const TensorView& x,
                                            const TrainStepOptions& options) override {
    return Run<TrainStepResult>(TrainStepCall(layer, x, options, &connection_->runtime()), options);
  }

  absl::StatusOr<InferResult> Infer(absl::string_view layer, const TensorView& x,
                                    const InferOptions& options) override {
    return Run<InferResult>(InferCall(layer, x, options), options);
  }

  absl::StatusOr<InferResult> Denormalize(absl::string_view layer, const TensorView& y,
                                          const InferOptions& options) override {
    return Run<InferResult>(DenormalizeCall(layer, y, options), options);
  }

  absl::StatusOr<BackwardResult> Backward(absl::string_view layer, const TensorView& x, const TensorView& dy,
                                          const BackwardOptions& options) override {
    return Run<BackwardResult>(BackwardCall(layer, x, dy, options, &connection_->runtime()), options);
  }

  absl::StatusOr<MergeMomentsResult> MergeMoments(absl::string_view layer, const Moments& moments,
                                                  const MergeMomentsOptions& options) override {
    v1::MergeMomentsRequest request;
    request.set_layer(layer.data(), layer.size());
    *request.mutable_moments() = ToProto(moments);
    request.set_contributor(options.contributor);
    request.set_sequence(options.sequence);
    request.set_request_id(RequestId(options));
    absl::StatusOr<v1::MergeMomentsResponse> response =
        connection_->Call<v1::MergeMomentsResponse>(request, options, request.request_id());
    if (!response.ok()) return response.status();
    return Take(&*response);
  }

  absl::StatusOr<ServingStatus> Health(absl::string_view service, const CallOptions& options) override {
    const absl::StatusOr<HealthResponse> response =
        connection_->Call<HealthResponse>(HealthRequest{{service.data(), service.size()}}, options);
    if (!response.ok()) return response.status();
    switch (response->status) {
      case 1:
        return ServingStatus::kServing;
      case 2:
        return ServingStatus::kNotServing;
      default:
        return ServingStatus::kUnknown;
    }
  }

  absl::StatusOr<ServerStatistics> GetStatistics(int max_layers, const CallOptions& options) override {
    return internal::GetStatistics(connection_.get(), max_layers, options);
  }

  absl::StatusOr<LogLevel> GetLogLevel(const CallOptions& options) override {
    return internal::GetLogLevel(connection_.get(), options);
  }

  absl::StatusOr<LogLevel> SetLogLevel(LogLevel level, const CallOptions& options) override {
    return internal::SetLogLevel(connection_.get(), level, options);
  }

  void TrainStepAsync(absl::string_view layer, const TensorView& x, const TrainStepOptions& options,
                      std::function<void(absl::StatusOr<TrainStepResult>)> done) override {
    Start(TrainStepCall(layer, x, options, &connection_->runtime()), options, std::move(done));
  }

  void InferAsync(absl::string_view layer, const TensorView& x, const InferOptions& options,
                  std::function<void(absl::StatusOr<InferResult>)> done) override {
    Start(InferCall(layer, x, options), options, std::move(done));
  }

  void DenormalizeAsync(absl::string_view layer, const TensorView& y, const InferOptions& options,
                        std::function<void(absl::StatusOr<InferResult>)> done) override {
    Start(DenormalizeCall(layer, y, options), options, std::move(done));
  }

  void BackwardAsync(absl::string_view layer, const TensorView& x, const TensorView& dy, const BackwardOptions& options,
                     std::function<void(absl::StatusOr<BackwardResult>)> done) override {
    Start(BackwardCall(layer, x, dy, options, &connection_->runtime()), options, std::move(done));
  }

  std::unique_ptr<StepStream> OpenSteps(const StepStreamOptions& options) override {
    return OpenStepStream(connection_.get(), options);
  }

  absl::StatusOr<InferResult> InferChunked(absl::string_view layer, const ChunkedTensor& x, const ChunkSource& source,
                                           const ChunkSink& sink, const InferOptions& options) override {
    return internal::InferChunked(connection_.get(), layer, x, source, sink, options);
  }

  absl::StatusOr<TrainStepResult> TrainStepChunked(absl::string_view layer, const ChunkedTensor& x,
                                                   const ChunkSource& source, const ChunkSink& sink,
                                                   const TrainStepOptions& options) override {
    return internal::TrainStepChunked(connection_.get(), layer, x, source, sink, options);
  }

 private:
  // Made once per call, here, so that every attempt carries the same one.
  std::string RequestId(const CallOptions& options) {
    return options.request_id.empty() ? connection_->runtime().NewRequestId() : options.request_id;
  }

  template <typename Result>
  absl::StatusOr<Result> Run(absl::StatusOr<TensorCall> call, const CallOptions& options) {
    if (!call.ok()) return call.status();
    const absl::Duration start = connection_->runtime().Now();
    CallOptions left = options;
    if (shared_memory_ != nullptr) {
      Place(shared_memory_.get(), std::min(kLongestWait, connection_->TimeoutOf(options)), &*call);
      left.timeout = connection_->TimeoutOf(options) - (connection_->runtime().Now() - start);
    }
    if (absl::Status status = OwnInputs(&*call, &connection_->buffers()); !status.ok()) return status;
    for (;;) {
      const TensorRequest request{call->method, call->layer, Encode(*call).Finish()};
      const absl::StatusOr<grpc::ByteBuffer> answer =
          connection_->Call<grpc::ByteBuffer>(request, left, call->request_id);
      if (answer.ok()) return Decode<Result>(*call, *answer, &connection_->buffers());
      if (shared_memory_ == nullptr || !Settle(shared_memory_.get(), answer.status(), &*call)) return answer.status();
      left.timeout = connection_->TimeoutOf(options) - (connection_->runtime().Now() - start);
    }
  }

  template <typename Result>
  void Start(absl::StatusOr<TensorCall> call, const CallOptions& options,
             std::function<void(absl::StatusOr<Result>)> done) {
    // Without waiting: until there is a region, tensors go in the messages.
    if (call.ok() && shared_memory_ != nullptr) Place(shared_memory_.get(), absl::ZeroDuration(), &*call);
    const absl::Status status = call.ok() ? OwnInputs(&*call, &connection_->buffers()) : call.status();
    if (!status.ok()) {
      // Not from here: the caller may hold a lock that `done` takes.
      connection_->RunSoon([status, done = std::move(done)] { done(status); });
      return;
    }
    Send<Result>(std::make_shared<TensorCall>(*std::move(call)), options, std::move(done));
  }

  template <typename Result>
  void Send(const std::shared_ptr<TensorCall>& call, const CallOptions& options,
            std::function<void(absl::StatusOr<Result>)> done) {
    TensorRequest request{call->method, call->layer, Encode(*call).Finish()};
    // Without shared memory the request holds the tensors now, and lets go of them when it is sent for good.
    if (shared_memory_ == nullptr) call->inputs.clear();
    const absl::Duration start = connection_->runtime().Now();
    connection_->CallAsync<grpc::ByteBuffer>(
        std::move(request), options, call->request_id,
        [this, call, options, start, done = std::move(done)](const absl::StatusOr<grpc::ByteBuffer>& answer) {
          if (!answer.ok() && shared_memory_ != nullptr && Settle(shared_memory_.get(), answer.status(), call.get())) {
            CallOptions left = options;
            left.timeout = connection_->TimeoutOf(options) - (connection_->runtime().Now() - start);
            return Send<Result>(call, left, done);
          }
          absl::StatusOr<Result> result =
              answer.ok() ? Decode<Result>(*call, *answer, &connection_->buffers()) : answer.status();
          // Whoever gets the result has the tensors for itself.
          *call = {};
          done(std::move(result));
        });
  }

  const std::unique_ptr<Connection> connection_;
  // Null: everything travels in messages.
  std::unique_ptr<SharedMemory> shared_memory_;
};

}  // namespace

std::unique_ptr<Client> MakeClient(absl::string_view target, const ClientOptions& options,
                                   std::shared_ptr<Runtime> runtime) {
  return std::make_unique<GrpcClient>(target, options, std::move(runtime));
}

}  // namespace internal

inline namespace abi_0_1 {

std::unique_ptr<Client> Client::Connect(absl::string_view target, const ClientOptions& options) {
  return internal::MakeClient(target, options, internal::Runtime::System());
}

}  // namespace abi_0_1
}  // namespace normd
