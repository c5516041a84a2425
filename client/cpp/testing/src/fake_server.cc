#include "normd/testing/fake_server.h"

#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "client/cpp/src/handover.h"
#include "client/cpp/testing/src/fake_layers.h"
#include "normd/v1/layer_service.grpc.pb.h"
#include "normd/v1/normalization_service.grpc.pb.h"

namespace normd::testing {
namespace {

grpc::Status ToGrpc(const absl::Status& status) {
  return {static_cast<grpc::StatusCode>(status.code()), std::string(status.message())};
}

class LayerService : public v1::LayerService::Service {
 public:
  explicit LayerService(FakeServer* fake) : fake_(fake) {}

  grpc::Status CreateLayer(grpc::ServerContext* c, const v1::CreateLayerRequest* q,
                           v1::CreateLayerResponse* r) override {
    return fake_->create_layer.Answer(c, *q, r);
  }
  grpc::Status GetLayer(grpc::ServerContext* c, const v1::GetLayerRequest* q, v1::GetLayerResponse* r) override {
    return fake_->get_layer.Answer(c, *q, r);
  }
  grpc::Status ListLayers(grpc::ServerContext* c, const v1::ListLayersRequest* q, v1::ListLayersResponse* r) override {
    return fake_->list_layers.Answer(c, *q, r);
  }
  grpc::Status UpdateLayer(grpc::ServerContext* c, const v1::UpdateLayerRequest* q,
                           v1::UpdateLayerResponse* r) override {
    return fake_->update_layer.Answer(c, *q, r);
  }
  grpc::Status DeleteLayer(grpc::ServerContext* c, const v1::DeleteLayerRequest* q,
                           v1::DeleteLayerResponse* r) override {
    return fake_->delete_layer.Answer(c, *q, r);
  }
  grpc::Status ResetStatistics(grpc::ServerContext* c, const v1::ResetStatisticsRequest* q,
                               v1::ResetStatisticsResponse* r) override {
    return fake_->reset_statistics.Answer(c, *q, r);
  }
  grpc::Status SetState(grpc::ServerContext* c, const v1::SetStateRequest* q, v1::SetStateResponse* r) override {
    return fake_->set_state.Answer(c, *q, r);
  }

 private:
  FakeServer* const fake_;
};

class NormalizationService : public v1::NormalizationService::Service {
 public:
  explicit NormalizationService(FakeServer* fake) : fake_(fake) {}

  grpc::Status TrainStep(grpc::ServerContext* c, const v1::TrainStepRequest* q, v1::TrainStepResponse* r) override {
    return fake_->train_step.Answer(c, *q, r);
  }
  grpc::Status Infer(grpc::ServerContext* c, const v1::InferRequest* q, v1::InferResponse* r) override {
    return fake_->infer.Answer(c, *q, r);
  }
  grpc::Status Denormalize(grpc::ServerContext* c, const v1::DenormalizeRequest* q,
                           v1::DenormalizeResponse* r) override {
    return fake_->denormalize.Answer(c, *q, r);
  }
  grpc::Status Backward(grpc::ServerContext* c, const v1::BackwardRequest* q, v1::BackwardResponse* r) override {
    return fake_->backward.Answer(c, *q, r);
  }
  grpc::Status MergeMoments(grpc::ServerContext* c, const v1::MergeMomentsRequest* q,
                            v1::MergeMomentsResponse* r) override {
    return fake_->merge_moments.Answer(c, *q, r);
  }

  grpc::Status Steps(grpc::ServerContext* c,
                     grpc::ServerReaderWriter<v1::StepsResponse, v1::StepsRequest>* stream) override {
    internal::handover::Take();
    return fake_->steps == nullptr ? CarryOut(c, stream) : Serve(fake_->steps, c, stream);
  }
  grpc::Status InferStream(grpc::ServerContext* c,
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
    if (serve == nullptr) return {grpc::StatusCode::UNIMPLEMENTED, "the FakeServer has no such stream"};
    grpc::Status status = serve(context, stream);
    internal::handover::Give();
    return status;
  }

  grpc::Status CarryOut(grpc::ServerContext* c, grpc::ServerReaderWriter<v1::StepsResponse, v1::StepsRequest>* stream) {
    v1::StepsRequest request;
    while (stream->Read(&request)) {
      v1::StepsResponse response;
      response.set_id(request.id());
      grpc::Status status(grpc::StatusCode::INVALID_ARGUMENT, "a call on the stream has none of TrainStep, ...");
      switch (request.call_case()) {
        case v1::StepsRequest::kTrainStep:
          status = fake_->train_step.Answer(c, request.train_step(), response.mutable_train_step());
          break;
        case v1::StepsRequest::kInfer:
          status = fake_->infer.Answer(c, request.infer(), response.mutable_infer());
          break;
        case v1::StepsRequest::kDenormalize:
          status = fake_->denormalize.Answer(c, request.denormalize(), response.mutable_denormalize());
          break;
        case v1::StepsRequest::kBackward:
          status = fake_->backward.Answer(c, request.backward(), response.mutable_backward());
          break;
        case v1::StepsRequest::CALL_NOT_SET:
          break;
      }
      if (!status.ok()) {
        response.clear_result();
        response.mutable_status()->set_code(status.error_code());
        response.mutable_status()->set_message(status.error_message());
      }
      if (!stream->Write(response)) break;
    }
    return grpc::Status::OK;
  }

  FakeServer* const fake_;
};

}  // namespace

void FakeMethodBase::FailNext(const absl::Status& status, int times) { Add({ToGrpc(status), false}, times); }

void FakeMethodBase::LoseNextAnswers(int times) {
  Add({{grpc::StatusCode::UNAVAILABLE, "the FakeServer lost this answer"}, true}, times);
}

void FakeMethodBase::Add(const Fault& fault, int times) {
  const std::lock_guard<std::mutex> lock(mutex_);
  faults_.insert(faults_.end(), static_cast<std::size_t>(times), fault);
}

FakeMethodBase::Fault FakeMethodBase::NextFault() {
  if (faults_.empty()) return {};
  Fault fault = std::move(faults_.front());
  faults_.pop_front();
  return fault;
}

void FakeMethodBase::Enter() { internal::handover::Take(); }
void FakeMethodBase::Leave() { internal::handover::Give(); }

struct FakeServer::Internals {
  explicit Internals(FakeServer* fake) : layer_service(fake), normalization_service(fake) {}

  FakeLayers layers;
  LayerService layer_service;
  NormalizationService normalization_service;
  int port = 0;
  std::unique_ptr<grpc::Server> server;
};

template <typename Request, typename Response>
typename FakeMethod<Request, Response>::Reply FakeServer::Fake() {
  return [layers = &internals_->layers](grpc::ServerContext*, const Request& request, Response* response) {
    return ToGrpc(layers->Handle(request, response));
  };
}

FakeServer::FakeServer(const std::vector<grpc::Service*>& more, int port)
    : internals_(std::make_unique<Internals>(this)),
      create_layer(Fake<v1::CreateLayerRequest, v1::CreateLayerResponse>()),
      get_layer(Fake<v1::GetLayerRequest, v1::GetLayerResponse>()),
      list_layers(Fake<v1::ListLayersRequest, v1::ListLayersResponse>()),
      update_layer(Fake<v1::UpdateLayerRequest, v1::UpdateLayerResponse>()),
      delete_layer(Fake<v1::DeleteLayerRequest, v1::DeleteLayerResponse>()),
      reset_statistics(Fake<v1::ResetStatisticsRequest, v1::ResetStatisticsResponse>()),
      set_state(Fake<v1::SetStateRequest, v1::SetStateResponse>()),
      train_step(Fake<v1::TrainStepRequest, v1::TrainStepResponse>()),
      infer(Fake<v1::InferRequest, v1::InferResponse>()),
      denormalize(Fake<v1::DenormalizeRequest, v1::DenormalizeResponse>()),
      backward(Fake<v1::BackwardRequest, v1::BackwardResponse>()),
      merge_moments(Fake<v1::MergeMomentsRequest, v1::MergeMomentsResponse>()) {
  grpc::ServerBuilder builder;
  builder.AddListeningPort(absl::StrCat("127.0.0.1:", port), grpc::InsecureServerCredentials(), &internals_->port);
  for (grpc::Service* service : more) builder.RegisterService(service);
  builder.RegisterService(&internals_->layer_service);
  builder.RegisterService(&internals_->normalization_service);
  builder.SetMaxReceiveMessageSize(-1);
  builder.SetMaxSendMessageSize(-1);
  internals_->server = builder.BuildAndStart();
  if (internals_->server == nullptr || internals_->port == 0) {
    std::fprintf(stderr, "normd::testing::FakeServer cannot listen on 127.0.0.1:%d\n", port);
    std::abort();
  }
  internal::handover::Give();
}

FakeServer::~FakeServer() {
  internals_->server->Shutdown(std::chrono::system_clock::now());
  internals_->server->Wait();
  internal::handover::Take();
}

int FakeServer::port() const { return internals_->port; }

std::string FakeServer::target() const { return absl::StrCat("127.0.0.1:", port()); }

}  // namespace normd::testing
