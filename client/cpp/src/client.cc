#include "client/cpp/src/client.h"

#include <memory>
#include <string>
#include <utility>
#include <variant>

#include "client/cpp/src/connection.h"
#include "client/cpp/src/convert.h"

namespace normd {
namespace internal {
namespace {

v1::LayerView ViewOf(bool with_state) { return with_state ? v1::LAYER_VIEW_STATE : v1::LAYER_VIEW_CONFIG; }

template <typename Response>
absl::StatusOr<Layer> LayerOf(const absl::StatusOr<Response>& response) {
  if (!response.ok()) return response.status();
  return FromProto(response->layer());
}

class GrpcClient : public Client {
 public:
  GrpcClient(absl::string_view target, const ClientOptions& options, std::shared_ptr<Runtime> runtime)
      : connection_(target, options, std::move(runtime)) {}

  absl::StatusOr<Layer> CreateLayer(const LayerSpec& spec, const CallOptions& options) override {
    v1::CreateLayerRequest request;
    request.set_name(spec.name);
    *request.mutable_config() = ToProto(spec.config);
    request.set_preset(spec.preset);
    if (spec.initial_state) *request.mutable_initial_state() = ToProto(*spec.initial_state);
    request.set_request_id(RequestId(options));
    return LayerOf(connection_.Call<v1::CreateLayerResponse>(request, options, request.request_id()));
  }

  absl::StatusOr<Layer> GetLayer(absl::string_view name, bool with_state, const CallOptions& options) override {
    v1::GetLayerRequest request;
    request.set_name(name.data(), name.size());
    request.set_view(ViewOf(with_state));
    return LayerOf(connection_.Call<v1::GetLayerResponse>(request, options));
  }

  absl::StatusOr<LayerPage> ListLayers(const ListLayersOptions& list, const CallOptions& options) override {
    v1::ListLayersRequest request;
    request.set_prefix(list.prefix);
    request.set_page_size(list.page_size);
    request.set_page_token(list.page_token);
    request.set_view(ViewOf(list.with_state));
    absl::StatusOr<v1::ListLayersResponse> response = connection_.Call<v1::ListLayersResponse>(request, options);
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
    return LayerOf(connection_.Call<v1::UpdateLayerResponse>(request, options, request.request_id()));
  }

  absl::Status DeleteLayer(absl::string_view name, absl::string_view etag, const CallOptions& options) override {
    v1::DeleteLayerRequest request;
    request.set_name(name.data(), name.size());
    request.set_etag(etag.data(), etag.size());
    request.set_request_id(RequestId(options));
    return connection_.Call<v1::DeleteLayerResponse>(request, options, request.request_id()).status();
  }

  absl::StatusOr<Layer> ResetStatistics(absl::string_view name, int64_t expected_version,
                                        const CallOptions& options) override {
    v1::ResetStatisticsRequest request;
    request.set_name(name.data(), name.size());
    request.set_expected_version(expected_version);
    request.set_request_id(RequestId(options));
    return LayerOf(connection_.Call<v1::ResetStatisticsResponse>(request, options, request.request_id()));
  }

  absl::StatusOr<Layer> SetState(absl::string_view name, const LayerState& state, int64_t expected_version,
                                 bool reset_optimizer, const CallOptions& options) override {
    v1::SetStateRequest request;
    request.set_name(name.data(), name.size());
    *request.mutable_state() = ToProto(state);
    request.set_expected_version(expected_version);
    request.set_reset_optimizer(reset_optimizer);
    request.set_request_id(RequestId(options));
    return LayerOf(connection_.Call<v1::SetStateResponse>(request, options, request.request_id()));
  }

  absl::StatusOr<TrainStepResult> TrainStep(absl::string_view layer, const TensorView& x,
                                            const TrainStepOptions& options) override {
    return Run<v1::TrainStepResponse>(TrainStepRequest(layer, x, options), options);
  }

  absl::StatusOr<InferResult> Infer(absl::string_view layer, const TensorView& x,
                                    const InferOptions& options) override {
    return Run<v1::InferResponse>(InferRequest(layer, x, options), options);
  }

  absl::StatusOr<InferResult> Denormalize(absl::string_view layer, const TensorView& y,
                                          const InferOptions& options) override {
    return Run<v1::DenormalizeResponse>(DenormalizeRequest(layer, y, options), options);
  }

  absl::StatusOr<BackwardResult> Backward(absl::string_view layer, const TensorView& x, const TensorView& dy,
                                          const BackwardOptions& options) override {
    return Run<v1::BackwardResponse>(BackwardRequest(layer, x, dy, options), options);
  }

  absl::StatusOr<ServingStatus> Health(absl::string_view service, const CallOptions& options) override {
    const absl::StatusOr<HealthResponse> response =
        connection_.Call<HealthResponse>(HealthRequest{{service.data(), service.size()}}, options);
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

  void TrainStepAsync(absl::string_view layer, const TensorView& x, const TrainStepOptions& options,
                      std::function<void(absl::StatusOr<TrainStepResult>)> done) override {
    Start<v1::TrainStepResponse>(TrainStepRequest(layer, x, options), options, std::move(done));
  }

  void InferAsync(absl::string_view layer, const TensorView& x, const InferOptions& options,
                  std::function<void(absl::StatusOr<InferResult>)> done) override {
    Start<v1::InferResponse>(InferRequest(layer, x, options), options, std::move(done));
  }

  void DenormalizeAsync(absl::string_view layer, const TensorView& y, const InferOptions& options,
                        std::function<void(absl::StatusOr<InferResult>)> done) override {
    Start<v1::DenormalizeResponse>(DenormalizeRequest(layer, y, options), options, std::move(done));
  }

  void BackwardAsync(absl::string_view layer, const TensorView& x, const TensorView& dy, const BackwardOptions& options,
                     std::function<void(absl::StatusOr<BackwardResult>)> done) override {
    Start<v1::BackwardResponse>(BackwardRequest(layer, x, dy, options), options, std::move(done));
  }

 private:
  // Made once per call, here, so that every attempt carries the same one.
  std::string RequestId(const CallOptions& options) {
    return options.request_id.empty() ? connection_.runtime().NewRequestId() : options.request_id;
  }

  absl::StatusOr<v1::TrainStepRequest> TrainStepRequest(absl::string_view layer, const TensorView& x,
                                                        const TrainStepOptions& options) {
    if (absl::Status status = CheckTensor(layer, "x", x); !status.ok()) return status;
    v1::TrainStepRequest request;
    request.set_layer(layer.data(), layer.size());
    SetTensor(x, request.mutable_x());
    request.mutable_gamma()->Assign(options.gamma.begin(), options.gamma.end());
    request.mutable_beta()->Assign(options.beta.begin(), options.beta.end());
    request.set_omit_output(options.omit_output);
    request.set_skip_update(options.skip_update);
    // A step that stores nothing needs no memory of it on the server.
    request.set_request_id(options.skip_update ? options.request_id : RequestId(options));
    return request;
  }

  static absl::StatusOr<v1::InferRequest> InferRequest(absl::string_view layer, const TensorView& x,
                                                       const InferOptions& options) {
    if (absl::Status status = CheckTensor(layer, "x", x); !status.ok()) return status;
    v1::InferRequest request;
    request.set_layer(layer.data(), layer.size());
    SetTensor(x, request.mutable_x());
    request.set_version(options.version);
    return request;
  }

  static absl::StatusOr<v1::DenormalizeRequest> DenormalizeRequest(absl::string_view layer, const TensorView& y,
                                                                   const InferOptions& options) {
    if (absl::Status status = CheckTensor(layer, "y", y); !status.ok()) return status;
    v1::DenormalizeRequest request;
    request.set_layer(layer.data(), layer.size());
    SetTensor(y, request.mutable_y());
    request.set_version(options.version);
    return request;
  }

  absl::StatusOr<v1::BackwardRequest> BackwardRequest(absl::string_view layer, const TensorView& x,
                                                      const TensorView& dy, const BackwardOptions& options) {
    if (absl::Status status = CheckTensor(layer, "x", x); !status.ok()) return status;
    if (absl::Status status = CheckTensor(layer, "dy", dy); !status.ok()) return status;
    if (absl::Status status = CheckTogether(layer, x, dy); !status.ok()) return status;
    v1::BackwardRequest request;
    request.set_layer(layer.data(), layer.size());
    SetTensor(x, request.mutable_x());
    SetTensor(dy, request.mutable_dy());
    request.set_mode(options.frozen ? v1::BACKWARD_MODE_FROZEN : v1::BACKWARD_MODE_TRAINING);
    request.mutable_batch_mean()->Assign(options.batch_mean.begin(), options.batch_mean.end());
    request.mutable_batch_var()->Assign(options.batch_var.begin(), options.batch_var.end());
    request.mutable_gamma()->Assign(options.gamma.begin(), options.gamma.end());
    const bool mutates = !std::holds_alternative<std::monostate>(options.optimizer);
    if (const Sgd* sgd = std::get_if<Sgd>(&options.optimizer)) *request.mutable_sgd() = ToProto(*sgd);
    if (const Adam* adam = std::get_if<Adam>(&options.optimizer)) *request.mutable_adam() = ToProto(*adam);
    request.set_omit_dx(options.omit_dx);
    request.set_request_id(mutates ? RequestId(options) : options.request_id);
    request.set_version(options.version);
    return request;
  }

  template <typename Response, typename Request>
  auto Run(const absl::StatusOr<Request>& request, const CallOptions& options)
      -> decltype(Take(std::declval<Response*>())) {
    if (!request.ok()) return request.status();
    absl::StatusOr<Response> response = connection_.Call<Response>(*request, options, IdOf(*request));
    if (!response.ok()) return response.status();
    return Take(&*response);
  }

  template <typename Response, typename Request, typename Result>
  void Start(absl::StatusOr<Request> request, const CallOptions& options,
             std::function<void(absl::StatusOr<Result>)> done) {
    if (!request.ok()) {
      // Not from here: the caller may hold a lock that `done` takes.
      connection_.RunSoon([status = request.status(), done = std::move(done)] { done(status); });
      return;
    }
    std::string request_id(IdOf(*request));
    connection_.CallAsync<Response>(*std::move(request), options, std::move(request_id),
                                    [done = std::move(done)](absl::StatusOr<Response> response) {
                                      if (response.ok()) {
                                        done(Take(&*response));
                                      } else {
                                        done(response.status());
                                      }
                                    });
  }

  static std::string IdOf(const v1::TrainStepRequest& request) { return request.request_id(); }
  static std::string IdOf(const v1::BackwardRequest& request) { return request.request_id(); }
  static std::string IdOf(const v1::InferRequest& /*request*/) { return ""; }
  static std::string IdOf(const v1::DenormalizeRequest& /*request*/) { return ""; }

  Connection connection_;
};

}  // namespace

std::unique_ptr<Client> MakeClient(absl::string_view target, const ClientOptions& options,
                                   std::shared_ptr<Runtime> runtime) {
  return std::make_unique<GrpcClient>(target, options, std::move(runtime));
}

}  // namespace internal

std::unique_ptr<Client> Client::Connect(absl::string_view target, const ClientOptions& options) {
  return internal::MakeClient(target, options, internal::Runtime::System());
}

}  // namespace normd
