#ifndef NORMD_TESTS_CLIENT_FAKE_SERVER_H_
#define NORMD_TESTS_CLIENT_FAKE_SERVER_H_

#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cpp/src/handover.h"
#include "normd/v1/layer_service.grpc.pb.h"
#include "normd/v1/normalization_service.grpc.pb.h"

namespace normd::testing {

// One method of the fake: answers with `reply`, which may be called from many threads at once, and keeps the requests.
template <typename Request, typename Response>
class FakeMethod {
 public:
  using Reply = std::function<grpc::Status(grpc::ServerContext*, const Request&, Response*)>;

  void operator=(Reply reply) {  // NOLINT(misc-unconventional-assign-operator)
    reply_ = std::move(reply);
    internal::handover::Give();
  }

  grpc::Status Answer(grpc::ServerContext* context, const Request* request, Response* response) {
    internal::handover::Take();
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      requests_.push_back(*request);
    }
    if (reply_) {
      const grpc::Status status = reply_(context, *request, response);
      internal::handover::Give();
      return status;
    }
    return {grpc::StatusCode::UNIMPLEMENTED, "the test has not said what to answer"};
  }

  // Those of the calls so far; what their replies did has happened before this returns.
  std::vector<Request> requests() const {
    internal::handover::Take();
    const std::lock_guard<std::mutex> lock(mutex_);
    return requests_;
  }

 private:
  Reply reply_;
  mutable std::mutex mutex_;
  std::vector<Request> requests_;
};

// The services of normd.v1 for layers and normalization with answers that a test sets, and `more` services, on a port
// of the system's choice or the given one. Set the answers before the first call.
class FakeServer {
 public:
  explicit FakeServer(const std::vector<grpc::Service*>& more = {}, int port = 0) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort(absl::StrCat("127.0.0.1:", port), grpc::InsecureServerCredentials(), &port_);
    for (grpc::Service* service : more) builder.RegisterService(service);
    builder.RegisterService(&layers_);
    builder.RegisterService(&normalization_);
    builder.SetMaxReceiveMessageSize(-1);
    builder.SetMaxSendMessageSize(-1);
    server_ = builder.BuildAndStart();
    EXPECT_NE(server_, nullptr);
    internal::handover::Give();
  }
  // Ends the calls that are under way.
  ~FakeServer() { server_->Shutdown(std::chrono::system_clock::now()); }
  FakeServer(const FakeServer&) = delete;
  FakeServer& operator=(const FakeServer&) = delete;

  int port() const { return port_; }
  std::string target() const { return absl::StrCat("127.0.0.1:", port_); }

  FakeMethod<v1::CreateLayerRequest, v1::CreateLayerResponse> create_layer;
  FakeMethod<v1::GetLayerRequest, v1::GetLayerResponse> get_layer;
  FakeMethod<v1::ListLayersRequest, v1::ListLayersResponse> list_layers;
  FakeMethod<v1::UpdateLayerRequest, v1::UpdateLayerResponse> update_layer;
  FakeMethod<v1::DeleteLayerRequest, v1::DeleteLayerResponse> delete_layer;
  FakeMethod<v1::ResetStatisticsRequest, v1::ResetStatisticsResponse> reset_statistics;
  FakeMethod<v1::SetStateRequest, v1::SetStateResponse> set_state;
  FakeMethod<v1::TrainStepRequest, v1::TrainStepResponse> train_step;
  FakeMethod<v1::InferRequest, v1::InferResponse> infer;
  FakeMethod<v1::DenormalizeRequest, v1::DenormalizeResponse> denormalize;
  FakeMethod<v1::BackwardRequest, v1::BackwardResponse> backward;
  FakeMethod<v1::MergeMomentsRequest, v1::MergeMomentsResponse> merge_moments;

  // What the streams do.
  template <typename Request, typename Response>
  using Stream = std::function<grpc::Status(grpc::ServerContext*, grpc::ServerReaderWriter<Response, Request>*)>;
  Stream<v1::StepsRequest, v1::StepsResponse> steps;
  Stream<v1::InferStreamRequest, v1::InferStreamResponse> infer_stream;
  Stream<v1::TrainStepStreamRequest, v1::TrainStepStreamResponse> train_step_stream;

 private:
  class Layers : public v1::LayerService::Service {
   public:
    explicit Layers(FakeServer* fake) : fake_(fake) {}
    grpc::Status CreateLayer(grpc::ServerContext* c, const v1::CreateLayerRequest* q,
                             v1::CreateLayerResponse* r) override {
      return fake_->create_layer.Answer(c, q, r);
    }
    grpc::Status GetLayer(grpc::ServerContext* c, const v1::GetLayerRequest* q, v1::GetLayerResponse* r) override {
      return fake_->get_layer.Answer(c, q, r);
    }
    grpc::Status ListLayers(grpc::ServerContext* c, const v1::ListLayersRequest* q,
                            v1::ListLayersResponse* r) override {
      return fake_->list_layers.Answer(c, q, r);
    }
    grpc::Status UpdateLayer(grpc::ServerContext* c, const v1::UpdateLayerRequest* q,
                             v1::UpdateLayerResponse* r) override {
      return fake_->update_layer.Answer(c, q, r);
    }
    grpc::Status DeleteLayer(grpc::ServerContext* c, const v1::DeleteLayerRequest* q,
                             v1::DeleteLayerResponse* r) override {
      return fake_->delete_layer.Answer(c, q, r);
    }
    grpc::Status ResetStatistics(grpc::ServerContext* c, const v1::ResetStatisticsRequest* q,
                                 v1::ResetStatisticsResponse* r) override {
      return fake_->reset_statistics.Answer(c, q, r);
    }
    grpc::Status SetState(grpc::ServerContext* c, const v1::SetStateRequest* q, v1::SetStateResponse* r) override {
      return fake_->set_state.Answer(c, q, r);
    }

   private:
    FakeServer* const fake_;
  };

  class Normalization : public v1::NormalizationService::Service {
   public:
    explicit Normalization(FakeServer* fake) : fake_(fake) {}
    grpc::Status TrainStep(grpc::ServerContext* c, const v1::TrainStepRequest* q, v1::TrainStepResponse* r) override {
      return fake_->train_step.Answer(c, q, r);
    }
    grpc::Status Infer(grpc::ServerContext* c, const v1::InferRequest* q, v1::InferResponse* r) override {
      return fake_->infer.Answer(c, q, r);
    }
    grpc::Status Denormalize(grpc::ServerContext* c, const v1::DenormalizeRequest* q,
                             v1::DenormalizeResponse* r) override {
      return fake_->denormalize.Answer(c, q, r);
    }
    grpc::Status Backward(grpc::ServerContext* c, const v1::BackwardRequest* q, v1::BackwardResponse* r) override {
      return fake_->backward.Answer(c, q, r);
    }
    grpc::Status MergeMoments(grpc::ServerContext* c, const v1::MergeMomentsRequest* q,
                              v1::MergeMomentsResponse* r) override {
      return fake_->merge_moments.Answer(c, q, r);
    }
    grpc::Status Steps(grpc::ServerContext* c,
                       grpc::ServerReaderWriter<v1::StepsResponse, v1::StepsRequest>* stream) override {
      return Serve(fake_->steps, c, stream);
    }
    grpc::Status InferStream(
        grpc::ServerContext* c,
        grpc::ServerReaderWriter<v1::InferStreamResponse, v1::InferStreamRequest>* stream) override {
      return Serve(fake_->infer_stream, c, stream);
    }
    grpc::Status TrainStepStream(
        grpc::ServerContext* c,
        grpc::ServerReaderWriter<v1::TrainStepStreamResponse, v1::TrainStepStreamRequest>* stream) override {
      return Serve(fake_->train_step_stream, c, stream);
    }

   private:
    template <typename F, typename S>
    static grpc::Status Serve(const F& serve, grpc::ServerContext* context, S* stream) {
      internal::handover::Take();
      const grpc::Status status = serve(context, stream);
      internal::handover::Give();
      return status;
    }

    FakeServer* const fake_;
  };

  Layers layers_{this};
  Normalization normalization_{this};
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace normd::testing

#endif  // NORMD_TESTS_CLIENT_FAKE_SERVER_H_
