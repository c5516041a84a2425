#ifndef NORMD_TESTING_FAKE_SERVER_H_
#define NORMD_TESTING_FAKE_SERVER_H_

#include <grpcpp/impl/service_type.h>
#include <grpcpp/server_context.h>
#include <grpcpp/support/status.h>
#include <grpcpp/support/sync_stream.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "normd/v1/layer_service.pb.h"
#include "normd/v1/normalization_service.pb.h"

// A server for tests of code that uses the SDK: in the test's own process, with nothing on disk and no normd installed.
// Link normd::testing.
//
//   normd::testing::FakeServer server;
//   auto client = normd::Client::Connect(server.target());
//   server.train_step.FailNext(absl::UnavailableError("draining"), 2);
//   auto step = client->TrainStep("encoder.bn1", x);            // succeeds with the third attempt
//   EXPECT_EQ(server.train_step.requests().size(), 3);
namespace normd::testing {

// What all methods of a FakeServer have: the failures that a test asks for. Thread-safe.
class FakeMethodBase {
 public:
  // The next `times` calls end with `status`, before anything is done. Given again, these come after those before. To
  // be tried again by a client the code is UNAVAILABLE.
  void FailNext(const absl::Status& status, int times = 1);
  // The next `times` calls are carried out, but their answers are lost: the caller gets UNAVAILABLE. This is what a
  // request_id is for: the call repeated is answered with `replayed`, and nothing is folded in twice.
  void LoseNextAnswers(int times = 1);

 protected:
  // What happens to a call instead of its answer.
  struct Fault {
    grpc::Status status;       // What the caller gets.
    bool carried_out = false;  // Whether it is carried out all the same.
  };
  // The first of those to come, or OK. REQUIRES mutex_.
  Fault NextFault();
  // Before and after what runs on gRPC's threads (ThreadSanitizer does not see gRPC's own locks).
  static void Enter();
  static void Leave();  // As Enter.

  mutable std::mutex mutex_;  // Guards the faults, and what a FakeMethod holds.

 private:
  void Add(const Fault& fault, int times);

  std::deque<Fault> faults_;
};

// One method of a FakeServer. Thread-safe.
template <typename Request, typename Response>
class FakeMethod : public FakeMethodBase {
 public:
  // May be called from many threads at once.
  using Reply = std::function<grpc::Status(grpc::ServerContext*, const Request&, Response*)>;

  // `fake`: what it answers in the beginning; for the server.
  explicit FakeMethod(Reply fake) : fake_(std::move(fake)) {}

  // What the method answers from now on, e.g. a MockFunction's AsStdFunction(); null: what the fake's layers say, as
  // in the beginning.
  void operator=(Reply reply) {  // NOLINT(misc-unconventional-assign-operator)
    const std::lock_guard<std::mutex> lock(mutex_);
    reply_ = std::move(reply);
  }

  // All so far, those that failed too; what their replies did has happened before this returns.
  std::vector<Request> requests() const {
    Enter();
    const std::lock_guard<std::mutex> lock(mutex_);
    return requests_;
  }

  // Carries one call out; for the server.
  grpc::Status Answer(grpc::ServerContext* context, const Request& request, Response* response) {
    Enter();
    Fault fault;
    Reply reply;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      requests_.push_back(request);
      fault = NextFault();
      reply = reply_ != nullptr ? reply_ : fake_;
    }
    grpc::Status status = fault.status;
    if (status.ok() || fault.carried_out) {
      const grpc::Status done = reply(context, request, response);
      if (status.ok()) status = done;
    }
    Leave();
    return status;
  }

 private:
  const Reply fake_;
  Reply reply_;
  std::vector<Request> requests_;
};

// Holds layers in memory and answers the calls of LayerService (but for ForkLayer and WatchLayers) and
// NormalizationService as a normd does: the same presets, formulas and kernels, versions, request_ids and statuses; its
// messages, hashes, uids and etags are its own, and some values pass that a normd refuses. Each method can be told to
// fail, or to answer something else. The rest of the API is UNIMPLEMENTED: snapshots, backups, AdminService, health,
// shared memory, tensors in chunks (unless a test sets infer_stream or train_step_stream), and layers with
// NON_FINITE_POLICY_SKIP_CHANNEL.
//
// It keeps every request and every version: for tests, not for work. Thread-safe, methods as they say.
class FakeServer {
 public:
  // Listens on the loopback address, on `port` or (0) one of the system's choice, and serves `more`, which must
  // outlive it. Ends the program, with a line on stderr, when it cannot.
  explicit FakeServer(const std::vector<grpc::Service*>& more = {}, int port = 0);
  // Ends the calls that are under way, and waits for their replies.
  ~FakeServer();
  FakeServer(const FakeServer&) = delete;
  FakeServer& operator=(const FakeServer&) = delete;

  // Where it listens.
  int port() const;
  // For Client::Connect: "127.0.0.1:" and the port.
  std::string target() const;

 private:
  // Above the methods, which refer to it.
  struct Internals;
  template <typename Request, typename Response>
  typename FakeMethod<Request, Response>::Reply Fake();
  const std::unique_ptr<Internals> internals_;

 public:
  FakeMethod<v1::CreateLayerRequest, v1::CreateLayerResponse> create_layer;              // CreateLayer.
  FakeMethod<v1::GetLayerRequest, v1::GetLayerResponse> get_layer;                       // GetLayer.
  FakeMethod<v1::ListLayersRequest, v1::ListLayersResponse> list_layers;                 // ListLayers.
  FakeMethod<v1::UpdateLayerRequest, v1::UpdateLayerResponse> update_layer;              // UpdateLayer.
  FakeMethod<v1::DeleteLayerRequest, v1::DeleteLayerResponse> delete_layer;              // DeleteLayer.
  FakeMethod<v1::ResetStatisticsRequest, v1::ResetStatisticsResponse> reset_statistics;  // ResetStatistics.
  FakeMethod<v1::SetStateRequest, v1::SetStateResponse> set_state;                       // SetState.
  FakeMethod<v1::TrainStepRequest, v1::TrainStepResponse> train_step;                    // TrainStep.
  FakeMethod<v1::InferRequest, v1::InferResponse> infer;                                 // Infer.
  FakeMethod<v1::DenormalizeRequest, v1::DenormalizeResponse> denormalize;               // Denormalize.
  FakeMethod<v1::BackwardRequest, v1::BackwardResponse> backward;                        // Backward.
  FakeMethod<v1::MergeMomentsRequest, v1::MergeMomentsResponse> merge_moments;           // MergeMoments.

  // What a stream does; to read and write on it, include normalization_service.grpc.pb.h. Set before the first call.
  template <typename Request, typename Response>
  using Stream = std::function<grpc::Status(grpc::ServerContext*, grpc::ServerReaderWriter<Response, Request>*)>;
  Stream<v1::StepsRequest, v1::StepsResponse> steps;  // Steps; null: each call goes to the method above that it names.
  Stream<v1::InferStreamRequest, v1::InferStreamResponse> infer_stream;  // InferStream; null: UNIMPLEMENTED.
  // TrainStepStream; null: UNIMPLEMENTED.
  Stream<v1::TrainStepStreamRequest, v1::TrainStepStreamResponse> train_step_stream;
};

}  // namespace normd::testing

#endif  // NORMD_TESTING_FAKE_SERVER_H_
