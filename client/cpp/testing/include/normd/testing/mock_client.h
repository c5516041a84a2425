#ifndef NORMD_TESTING_MOCK_CLIENT_H_
#define NORMD_TESTING_MOCK_CLIENT_H_

#include <gmock/gmock.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "normd/client.h"

// For tests of code that takes a normd::Client: GoogleMock's mocks of it and of what it opens. Link normd::testing and
// GTest::gmock.
//
//   normd::testing::MockClient client;
//   EXPECT_CALL(client, Infer(testing::Eq("encoder.bn1"), testing::_, testing::_))
//       .WillOnce(testing::Return(absl::UnavailableError("draining")));
//
// Where the code under test makes its own client from an address, or its retries matter, give it a FakeServer
// (normd/testing/fake_server.h). A method that is added to Client in a later release is added here with it.
namespace normd::testing {

// A Client. Thread-safe as mocks are: expectations first, then the calls.
class MockClient : public Client {
 public:
  MOCK_METHOD(absl::StatusOr<Layer>, CreateLayer, (const LayerSpec&, const CallOptions&), (override));
  MOCK_METHOD(absl::StatusOr<Layer>, GetLayer, (absl::string_view, bool, const CallOptions&), (override));
  MOCK_METHOD(absl::StatusOr<LayerPage>, ListLayers, (const ListLayersOptions&, const CallOptions&), (override));
  MOCK_METHOD(absl::StatusOr<Layer>, UpdateLayer,
              (absl::string_view, const LayerConfig&, const std::vector<std::string>&, absl::string_view,
               const CallOptions&),
              (override));
  MOCK_METHOD(absl::Status, DeleteLayer, (absl::string_view, absl::string_view, const CallOptions&), (override));
  MOCK_METHOD(absl::StatusOr<Layer>, ResetStatistics, (absl::string_view, int64_t, const CallOptions&), (override));
  MOCK_METHOD(absl::StatusOr<Layer>, SetState,
              (absl::string_view, const LayerState&, int64_t, bool, const CallOptions&), (override));
  MOCK_METHOD(absl::StatusOr<Layer>, ForkLayer, (absl::string_view, absl::string_view, const ForkOptions&), (override));
  MOCK_METHOD(std::unique_ptr<LayerWatch>, Watch, (const WatchOptions&), (override));

  MOCK_METHOD(absl::StatusOr<Snapshot>, CreateSnapshot, (absl::string_view, const LayerSelection&, const CallOptions&),
              (override));
  MOCK_METHOD(absl::StatusOr<std::vector<Snapshot>>, ListSnapshots, (absl::string_view, const CallOptions&),
              (override));
  MOCK_METHOD(absl::StatusOr<int64_t>, RestoreSnapshot,
              (absl::string_view, const RestoreSelection&, const CallOptions&), (override));
  MOCK_METHOD(absl::Status, DeleteSnapshot, (absl::string_view, const CallOptions&), (override));
  MOCK_METHOD(absl::StatusOr<int64_t>, Backup, (const BackupSink&, const CallOptions&), (override));
  MOCK_METHOD(absl::StatusOr<int64_t>, RestoreBackup,
              (const BackupSource&, const RestoreSelection&, const CallOptions&), (override));

  MOCK_METHOD(absl::StatusOr<Tensor>, AllocateTensor, (DType, std::vector<int64_t>, Layout), (override));
  MOCK_METHOD(absl::StatusOr<TrainStepResult>, TrainStep,
              (absl::string_view, const TensorView&, const TrainStepOptions&), (override));
  MOCK_METHOD(absl::StatusOr<InferResult>, Infer, (absl::string_view, const TensorView&, const InferOptions&),
              (override));
  MOCK_METHOD(absl::StatusOr<InferResult>, Denormalize, (absl::string_view, const TensorView&, const InferOptions&),
              (override));
  MOCK_METHOD(absl::StatusOr<BackwardResult>, Backward,
              (absl::string_view, const TensorView&, const TensorView&, const BackwardOptions&), (override));
  MOCK_METHOD(absl::StatusOr<MergeMomentsResult>, MergeMoments,
              (absl::string_view, const Moments&, const MergeMomentsOptions&), (override));

  MOCK_METHOD(absl::StatusOr<ServingStatus>, Health, (absl::string_view, const CallOptions&), (override));
  MOCK_METHOD(absl::StatusOr<ServerStatistics>, GetStatistics, (int, const CallOptions&), (override));
  MOCK_METHOD(absl::StatusOr<LogLevel>, GetLogLevel, (const CallOptions&), (override));
  MOCK_METHOD(absl::StatusOr<LogLevel>, SetLogLevel, (LogLevel, const CallOptions&), (override));

  MOCK_METHOD(void, TrainStepAsync,
              (absl::string_view, const TensorView&, const TrainStepOptions&,
               std::function<void(absl::StatusOr<TrainStepResult>)>),
              (override));
  MOCK_METHOD(void, InferAsync,
              (absl::string_view, const TensorView&, const InferOptions&,
               std::function<void(absl::StatusOr<InferResult>)>),
              (override));
  MOCK_METHOD(void, DenormalizeAsync,
              (absl::string_view, const TensorView&, const InferOptions&,
               std::function<void(absl::StatusOr<InferResult>)>),
              (override));
  MOCK_METHOD(void, BackwardAsync,
              (absl::string_view, const TensorView&, const TensorView&, const BackwardOptions&,
               std::function<void(absl::StatusOr<BackwardResult>)>),
              (override));

  MOCK_METHOD(std::unique_ptr<StepStream>, OpenSteps, (const StepStreamOptions&), (override));
  MOCK_METHOD(absl::StatusOr<InferResult>, InferChunked,
              (absl::string_view, const ChunkedTensor&, const ChunkSource&, const ChunkSink&, const InferOptions&),
              (override));
  MOCK_METHOD(absl::StatusOr<TrainStepResult>, TrainStepChunked,
              (absl::string_view, const ChunkedTensor&, const ChunkSource&, const ChunkSink&, const TrainStepOptions&),
              (override));
};

// What Client::OpenSteps returns.
class MockStepStream : public StepStream {
 public:
  MOCK_METHOD(void, TrainStep,
              (absl::string_view, const TensorView&, const TrainStepOptions&,
               std::function<void(absl::StatusOr<TrainStepResult>)>),
              (override));
  MOCK_METHOD(void, Infer,
              (absl::string_view, const TensorView&, const InferOptions&,
               std::function<void(absl::StatusOr<InferResult>)>),
              (override));
  MOCK_METHOD(void, Denormalize,
              (absl::string_view, const TensorView&, const InferOptions&,
               std::function<void(absl::StatusOr<InferResult>)>),
              (override));
  MOCK_METHOD(void, Backward,
              (absl::string_view, const TensorView&, const TensorView&, const BackwardOptions&,
               std::function<void(absl::StatusOr<BackwardResult>)>),
              (override));
  MOCK_METHOD(absl::Status, Finish, (), (override));
};

// What Client::Watch returns.
class MockLayerWatch : public LayerWatch {
 public:
  MOCK_METHOD(absl::StatusOr<LayerChange>, Next, (), (override));
  MOCK_METHOD(void, Cancel, (), (override));
};

}  // namespace normd::testing

#endif  // NORMD_TESTING_MOCK_CLIENT_H_
