// Who may do what: tokens, roles and rates on every RPC (docs/security.md).

#include <google/protobuf/descriptor.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <future>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "inference/open_inference_service.grpc.pb.h"
#include "normd/v1/admin_service.grpc.pb.h"
#include "normd/v1/error_details.pb.h"
#include "normd/v1/shared_memory_service.grpc.pb.h"
#include "normd/v1/snapshot_service.grpc.pb.h"
#include "server/base/sha256.h"
#include "tests/integration/captured_log.h"
#include "tests/integration/test_server.h"

namespace normd::tests {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::UnorderedElementsAre;

constexpr char kUnauthenticated[] = "there is no token, want 'authorization: Bearer TOKEN'";

std::string Line(const std::string& name, const std::string& token, const std::string& grants) {
  base::Sha256 hash;
  hash.Add(token.data(), token.size());
  const std::array<char, 32> digest = hash.Digest();
  return absl::StrCat(name, " sha256:", absl::BytesToHexString({digest.data(), digest.size()}), " ", grants, "\n");
}

// Tokens are called after what they may do. There are layers mine.a, mine.b and other.
class AccessTest : public ::testing::Test {
 protected:
  explicit AccessTest(app::ServerOptions options = TestOptions()) {
    WriteAccessFile(Everyone());
    options.access.file = folder_.Path("access");
    options.unix_socket = folder_.Path("socket");
    options.shared_memory = true;
    server_ = std::make_unique<TestServer>(options, log_);
    channel_ = server_->channel();
    for (const char* name : {"mine.a", "mine.b", "other"}) {
      v1::CreateLayerRequest request;
      request.set_name(name);
      request.mutable_config()->set_num_channels(2);
      v1::CreateLayerResponse response;
      EXPECT_THAT(As("root", *layers(), &v1::LayerService::Stub::CreateLayer, request, &response), GrpcIsOk());
    }
  }

  static std::string Everyone() {
    return Line("reader", "reader-token", "read:mine.*") + Line("trainer", "trainer-token", "train:mine.*") +
           Line("owner", "owner-token", "admin:mine.*") + Line("monitor", "monitor-token", "read:*") +
           Line("root", "root-token", "admin:*") + Line("slow", "slow-token", "train:* rate=1");
  }

  void WriteAccessFile(const std::string& text) {
    std::ofstream(folder_.Path("access.new")) << text;
    std::filesystem::rename(folder_.Path("access.new"), folder_.Path("access"));
  }

  static void SetToken(const std::string& who, grpc::ClientContext* context) {
    context->set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    if (!who.empty()) context->AddMetadata("authorization", absl::StrCat("Bearer ", who, "-token"));
  }

  template <typename Stub, typename Request, typename Response>
  static grpc::Status As(const std::string& who, Stub& stub,
                         grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                         const Request& request, Response* response) {
    grpc::ClientContext context;
    SetToken(who, &context);
    return (stub.*method)(&context, request, response);
  }

  // A call of a method, by its path, with an empty request.
  grpc::Status CallByPath(const std::string& who, const std::string& path,
                          std::shared_ptr<grpc::Channel> channel = nullptr) {
    grpc::GenericStub stub(channel != nullptr ? channel : channel_);
    grpc::ClientContext context;
    SetToken(who, &context);
    grpc::ByteBuffer request(nullptr, 0);
    grpc::ByteBuffer response;
    std::promise<grpc::Status> done;
    stub.UnaryCall(&context, path, {}, &request, &response,
                   [&done](grpc::Status status) { done.set_value(std::move(status)); });
    return done.get_future().get();
  }

  grpc::Status Train(const std::string& who, const std::string& layer) {
    v1::TrainStepResponse response;
    return As(who, *normalization(), &v1::NormalizationService::Stub::TrainStep, TrainStepOf(layer), &response);
  }

  static v1::TrainStepRequest TrainStepOf(const std::string& layer) {
    v1::TrainStepRequest request;
    request.set_layer(layer);
    *request.mutable_x() = MakeTensor<float>({2, 2}, {1, 2, 3, 4});
    return request;
  }

  int64_t Version(const std::string& layer) {
    v1::GetLayerRequest request;
    request.set_name(layer);
    v1::GetLayerResponse response;
    EXPECT_THAT(As("root", *layers(), &v1::LayerService::Stub::GetLayer, request, &response), GrpcIsOk());
    return response.layer().version();
  }

  std::unique_ptr<v1::LayerService::Stub> layers() { return v1::LayerService::NewStub(channel_); }
  std::unique_ptr<v1::NormalizationService::Stub> normalization() {
    return v1::NormalizationService::NewStub(channel_);
  }
  std::unique_ptr<v1::SnapshotService::Stub> snapshots() { return v1::SnapshotService::NewStub(channel_); }
  std::unique_ptr<v1::AdminService::Stub> admin() { return v1::AdminService::NewStub(channel_); }
  std::unique_ptr<inference::GRPCInferenceService::Stub> models() {
    return inference::GRPCInferenceService::NewStub(channel_);
  }

  TempDir folder_;
  std::shared_ptr<CapturedLog> log_ = std::make_shared<CapturedLog>();
  std::unique_ptr<TestServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
};

auto Denied(const std::string& who, const std::string& role, const std::string& what) {
  return GrpcStatusIs(grpc::PERMISSION_DENIED,
                      absl::StrCat("'", who, "' does not have the role ", role, " for ", what));
}

// All methods of all services that the server has, by path.
std::vector<const google::protobuf::MethodDescriptor*> AllMethods() {
  std::vector<const google::protobuf::MethodDescriptor*> methods;
  for (const char* name : {"normd.v1.LayerService", "normd.v1.NormalizationService", "normd.v1.SnapshotService",
                           "normd.v1.SharedMemoryService", "normd.v1.AdminService", "inference.GRPCInferenceService",
                           "grpc.health.v1.Health"}) {
    const google::protobuf::ServiceDescriptor* const service =
        google::protobuf::DescriptorPool::generated_pool()->FindServiceByName(name);
    EXPECT_NE(service, nullptr) << name;
    for (int i = 0; i < service->method_count(); ++i) methods.push_back(service->method(i));
  }
  return methods;
}

std::string PathOf(const google::protobuf::MethodDescriptor& method) {
  return absl::StrCat("/", method.service()->full_name(), "/", method.name());
}

constexpr char kReflection[] = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";

TEST_F(AccessTest, WithoutATokenOnlyHealthAnswers) {
  const std::set<std::string> open = {"/grpc.health.v1.Health/Check", "/inference.GRPCInferenceService/ServerLive",
                                      "/inference.GRPCInferenceService/ServerReady"};
  int refused = 0;
  for (const auto* method : AllMethods()) {
    const std::string path = PathOf(*method);
    if (path == "/grpc.health.v1.Health/Watch") continue;  // Never ends.
    if (open.contains(path)) {
      EXPECT_THAT(CallByPath("", path), GrpcIsOk()) << path;
    } else {
      EXPECT_THAT(CallByPath("", path), GrpcStatusIs(grpc::UNAUTHENTICATED, kUnauthenticated)) << path;
      ++refused;
    }
  }
  EXPECT_GT(refused, 30);
  EXPECT_THAT(CallByPath("", kReflection), GrpcStatusIs(grpc::UNAUTHENTICATED, kUnauthenticated));
  EXPECT_THAT(CallByPath("", "/normd.v1.LayerService/NoSuchMethod"),
              GrpcStatusIs(grpc::UNAUTHENTICATED, kUnauthenticated));
  EXPECT_THAT(CallByPath("unknown", "/normd.v1.LayerService/ListLayers"),
              GrpcStatusIs(grpc::UNAUTHENTICATED, "the token is not in the server's access file"));
}

TEST_F(AccessTest, UnixSocketsTakeATokenToo) {
  const auto channel = NewChannel(absl::StrCat("unix:", folder_.Path("socket")));
  EXPECT_THAT(CallByPath("", "/normd.v1.LayerService/ListLayers", channel),
              GrpcStatusIs(grpc::UNAUTHENTICATED, kUnauthenticated));
  EXPECT_THAT(CallByPath("reader", "/normd.v1.LayerService/ListLayers", channel), GrpcIsOk());
}

TEST_F(AccessTest, ReflectionIsForWhoeverHasAnyRole) {
  EXPECT_NE(CallByPath("reader", kReflection).error_code(), grpc::UNAUTHENTICATED);
  EXPECT_NE(CallByPath("reader", kReflection).error_code(), grpc::PERMISSION_DENIED);
}

// Written down once more: a method that is missing here is one whose role nobody has thought about.
TEST_F(AccessTest, EveryMethodTakesARole) {
  const std::set<std::string> for_trainers = {"CreateLayer", "ResetStatistics", "SetState",     "ForkLayer",
                                              "TrainStep",   "Backward",        "MergeMoments", "TrainStepStream"};
  const std::set<std::string> for_admins = {"UpdateLayer",     "DeleteLayer",    "CreateSnapshot", "ListSnapshots",
                                            "RestoreSnapshot", "DeleteSnapshot", "Backup",         "RestoreBackup",
                                            "GetLogLevel",     "SetLogLevel"};
  const std::set<std::string> for_readers = {"GetLayer",
                                             "ListLayers",
                                             "WatchLayers",
                                             "Infer",
                                             "Denormalize",
                                             "Steps",
                                             "InferStream",
                                             "OpenSession",
                                             "RegisterRegion",
                                             "UnregisterRegion",
                                             "ListRegions",
                                             "GetStatistics",
                                             "ModelReady",
                                             "ServerMetadata",
                                             "ModelMetadata",
                                             "ModelConfig",
                                             "ModelInfer",
                                             "ModelStreamInfer",
                                             "ModelStatistics",
                                             "RepositoryIndex",
                                             "SystemSharedMemoryStatus",
                                             "SystemSharedMemoryRegister",
                                             "SystemSharedMemoryUnregister"};
  for (const auto* method : AllMethods()) {
    const std::string path = PathOf(*method);
    if (absl::StartsWith(path, "/grpc.health") || method->name() == "ServerLive" || method->name() == "ServerReady") {
      continue;
    }
    if (for_trainers.contains(method->name())) {
      EXPECT_THAT(CallByPath("reader", path), Denied("reader", "train", "any layer")) << path;
    } else if (for_admins.contains(method->name())) {
      EXPECT_THAT(CallByPath("trainer", path), Denied("trainer", "admin", "any layer")) << path;
    } else {
      EXPECT_TRUE(for_readers.contains(method->name())) << path << " is new: which role does it take?";
    }
  }
}

TEST_F(AccessTest, RolesHoldForTheLayersOfTheirPrefixOnly) {
  const int64_t version = Version("other");
  EXPECT_THAT(Train("trainer", "mine.a"), GrpcIsOk());
  EXPECT_THAT(Train("trainer", "other"), Denied("trainer", "train", "layer 'other'"));
  EXPECT_THAT(Train("trainer", "no-such"), Denied("trainer", "train", "layer 'no-such'"));
  EXPECT_THAT(Train("monitor", "other"), Denied("monitor", "train", "any layer"));

  v1::InferRequest infer;
  infer.set_layer("other");
  *infer.mutable_x() = TrainStepOf("").x();
  v1::InferResponse inferred;
  EXPECT_THAT(As("reader", *normalization(), &v1::NormalizationService::Stub::Infer, infer, &inferred),
              Denied("reader", "read", "layer 'other'"));
  EXPECT_THAT(As("monitor", *normalization(), &v1::NormalizationService::Stub::Infer, infer, &inferred), GrpcIsOk());
  v1::DenormalizeRequest denormalize;
  denormalize.set_layer("other");
  v1::DenormalizeResponse denormalized;
  EXPECT_THAT(As("reader", *normalization(), &v1::NormalizationService::Stub::Denormalize, denormalize, &denormalized),
              Denied("reader", "read", "layer 'other'"));
  v1::BackwardRequest backward;
  backward.set_layer("other");
  v1::BackwardResponse gradients;
  EXPECT_THAT(As("trainer", *normalization(), &v1::NormalizationService::Stub::Backward, backward, &gradients),
              Denied("trainer", "train", "layer 'other'"));
  v1::MergeMomentsRequest merge;
  merge.set_layer("other");
  v1::MergeMomentsResponse merged;
  EXPECT_THAT(As("trainer", *normalization(), &v1::NormalizationService::Stub::MergeMoments, merge, &merged),
              Denied("trainer", "train", "layer 'other'"));
  EXPECT_EQ(Version("other"), version);
}

TEST_F(AccessTest, LayersAreMadeReadAndChangedInThePrefixOnly) {
  const auto check = [&](auto method, auto request, auto response, const char* who, const char* role) {
    request.set_name("other");
    EXPECT_THAT(As(who, *layers(), method, request, &response), Denied(who, role, "layer 'other'"))
        << request.GetTypeName();
    // Inside, it is the layer or the request that says what is wrong, if anything.
    request.set_name("mine.b");
    EXPECT_NE(As(who, *layers(), method, request, &response).error_code(), grpc::PERMISSION_DENIED)
        << request.GetTypeName();
  };
  using Stub = v1::LayerService::Stub;
  check(&Stub::CreateLayer, v1::CreateLayerRequest(), v1::CreateLayerResponse(), "trainer", "train");
  check(&Stub::GetLayer, v1::GetLayerRequest(), v1::GetLayerResponse(), "reader", "read");
  check(&Stub::ResetStatistics, v1::ResetStatisticsRequest(), v1::ResetStatisticsResponse(), "trainer", "train");
  check(&Stub::SetState, v1::SetStateRequest(), v1::SetStateResponse(), "trainer", "train");
  check(&Stub::UpdateLayer, v1::UpdateLayerRequest(), v1::UpdateLayerResponse(), "owner", "admin");
  check(&Stub::DeleteLayer, v1::DeleteLayerRequest(), v1::DeleteLayerResponse(), "owner", "admin");
  EXPECT_THAT(CallByPath("trainer", "/normd.v1.LayerService/DeleteLayer"), Denied("trainer", "admin", "any layer"));
}

TEST_F(AccessTest, ForksTakeARoleForBothLayers) {
  const auto fork = [&](const std::string& who, const std::string& from, const std::string& to, bool share) {
    v1::ForkLayerRequest request;
    request.set_name(from);
    request.set_new_name(to);
    request.set_share_affine(share);
    v1::ForkLayerResponse response;
    return As(who, *layers(), &v1::LayerService::Stub::ForkLayer, request, &response);
  };
  EXPECT_THAT(fork("trainer", "mine.a", "mine.fork", true), GrpcIsOk());
  EXPECT_THAT(fork("trainer", "other", "mine.x", false), Denied("trainer", "read", "layer 'other'"));
  EXPECT_THAT(fork("trainer", "mine.a", "x", false), Denied("trainer", "train", "layer 'x'"));
  // What is shared is changed by both.
  WriteAccessFile(Everyone() + Line("both", "both-token", "train:mine.* read:other"));
  Await("the new access file", [&] { return fork("both", "mine.a", "mine.fork", false).error_code() != 16; });
  EXPECT_THAT(fork("both", "other", "mine.shared", true), Denied("both", "train", "layer 'other'"));
  EXPECT_THAT(fork("both", "other", "mine.copy", false), GrpcIsOk());
}

TEST_F(AccessTest, ListsHoldWhatMayBeRead) {
  const auto list = [&](const std::string& who, int page_size) {
    std::vector<std::string> names;
    v1::ListLayersRequest request;
    request.set_page_size(page_size);
    v1::ListLayersResponse response;
    do {
      request.set_page_token(response.next_page_token());
      EXPECT_THAT(As(who, *layers(), &v1::LayerService::Stub::ListLayers, request, &response), GrpcIsOk());
      for (const v1::Layer& layer : response.layers()) names.push_back(layer.name());
    } while (!response.next_page_token().empty());
    return names;
  };
  EXPECT_THAT(list("reader", 0), ElementsAre("mine.a", "mine.b"));
  EXPECT_THAT(list("reader", 1), ElementsAre("mine.a", "mine.b"));
  EXPECT_THAT(list("monitor", 1), ElementsAre("mine.a", "mine.b", "other"));

  inference::RepositoryIndexResponse index;
  ASSERT_THAT(As("reader", *models(), &inference::GRPCInferenceService::Stub::RepositoryIndex,
                 inference::RepositoryIndexRequest(), &index),
              GrpcIsOk());
  ASSERT_EQ(index.models_size(), 2);
  EXPECT_EQ(index.models(0).name(), "mine.a");
  EXPECT_EQ(index.models(1).name(), "mine.b");
}

TEST_F(AccessTest, WatchesSendWhatMayBeRead) {
  const auto watch = [&](v1::WatchLayersRequest request) {
    grpc::ClientContext context;
    SetToken("reader", &context);
    const auto stub = layers();
    const auto stream = stub->WatchLayers(&context, request);
    std::vector<std::string> names;
    v1::WatchLayersResponse response;
    while (names.size() < 3 && stream->Read(&response)) {
      names.push_back(response.layer().name());
      // Others change in between.
      if (names.size() == 2) {
        EXPECT_THAT(Train("root", "other"), GrpcIsOk());
        EXPECT_THAT(Train("root", "mine.b"), GrpcIsOk());
      }
    }
    if (names.size() == 3) context.TryCancel();
    return std::pair(names, stream->Finish());
  };
  EXPECT_THAT(watch({}).first, ElementsAre("mine.a", "mine.b", "mine.b"));
  v1::WatchLayersRequest by_name;
  by_name.add_names("mine.a");
  by_name.add_names("other");
  const auto [names, status] = watch(by_name);
  EXPECT_THAT(names, IsEmpty());
  EXPECT_THAT(status, Denied("reader", "read", "layer 'other'"));
}

TEST_F(AccessTest, EachCallOfAStreamTakesItsOwnRole) {
  grpc::ClientContext context;
  SetToken("reader", &context);
  const auto stub = normalization();
  const auto stream = stub->Steps(&context);
  const auto call = [&](v1::StepsRequest request) {
    v1::StepsResponse response;
    EXPECT_TRUE(stream->Write(request));
    EXPECT_TRUE(stream->Read(&response));
    return response;
  };
  v1::StepsRequest infer;
  infer.mutable_infer()->set_layer("mine.a");
  *infer.mutable_infer()->mutable_x() = TrainStepOf("").x();
  EXPECT_TRUE(call(infer).has_infer());
  infer.mutable_infer()->set_layer("other");
  EXPECT_EQ(call(infer).status().code(), grpc::PERMISSION_DENIED);
  v1::StepsRequest train;
  *train.mutable_train_step() = TrainStepOf("mine.a");
  const v1::StepsResponse denied = call(train);
  EXPECT_EQ(denied.status().code(), grpc::PERMISSION_DENIED);
  EXPECT_EQ(denied.status().message(), "'reader' does not have the role train for layer 'mine.a'");

  // It ends with the token, not with the stream.
  WriteAccessFile(Line("root", "root-token", "admin:*"));
  infer.mutable_infer()->set_layer("mine.a");
  Await("end of the token", [&] { return call(infer).status().code() == grpc::UNAUTHENTICATED; });
  stream->WritesDone();
  EXPECT_THAT(stream->Finish(), GrpcIsOk());
}

TEST_F(AccessTest, TensorsInChunks) {
  const auto stub = normalization();
  grpc::ClientContext infer_context;
  SetToken("reader", &infer_context);
  const auto infer = stub->InferStream(&infer_context);
  v1::InferStreamRequest infer_request;
  infer_request.mutable_call()->set_layer("other");
  infer->Write(infer_request);
  EXPECT_THAT(infer->Finish(), Denied("reader", "read", "layer 'other'"));

  grpc::ClientContext train_context;
  SetToken("trainer", &train_context);
  const auto train = stub->TrainStepStream(&train_context);
  v1::TrainStepStreamRequest train_request;
  train_request.mutable_call()->set_layer("other");
  train->Write(train_request);
  EXPECT_THAT(train->Finish(), Denied("trainer", "train", "layer 'other'"));
}

TEST_F(AccessTest, OpenInferenceTakesTheRoleOfWhatItDoes) {
  inference::ModelInferRequest request;
  request.set_model_name("mine.a");
  auto* const input = request.add_inputs();
  input->set_name("x");
  input->set_datatype("FP32");
  input->add_shape(1);
  input->add_shape(2);
  input->mutable_contents()->add_fp32_contents(1);
  input->mutable_contents()->add_fp32_contents(2);
  inference::ModelInferResponse response;
  using Stub = inference::GRPCInferenceService::Stub;
  EXPECT_THAT(As("reader", *models(), &Stub::ModelInfer, request, &response), GrpcIsOk());
  // Whether there is such a version is not said.
  request.set_model_name("other");
  request.set_model_version("77");
  EXPECT_THAT(As("reader", *models(), &Stub::ModelInfer, request, &response),
              Denied("reader", "read", "layer 'other'"));
  request.clear_model_version();
  request.set_model_name("mine.a");
  (*request.mutable_parameters())["training"].set_bool_param(true);
  EXPECT_THAT(As("reader", *models(), &Stub::ModelInfer, request, &response),
              Denied("reader", "train", "layer 'mine.a'"));
  EXPECT_THAT(As("trainer", *models(), &Stub::ModelInfer, request, &response), GrpcIsOk());

  grpc::ClientContext context;
  SetToken("reader", &context);
  const auto stub = models();
  const auto stream = stub->ModelStreamInfer(&context);
  inference::ModelStreamInferResponse streamed;
  ASSERT_TRUE(stream->Write(request));
  ASSERT_TRUE(stream->Read(&streamed));
  EXPECT_THAT(streamed.error_message(), HasSubstr("PERMISSION_DENIED: 'reader' does not have the role train"));
  stream->WritesDone();
  EXPECT_THAT(stream->Finish(), GrpcIsOk());

  for (const char* layer : {"mine.a", "other"}) {
    const bool mine = absl::StartsWith(layer, "mine");
    inference::ModelMetadataRequest metadata;
    metadata.set_name(layer);
    inference::ModelMetadataResponse got_metadata;
    EXPECT_EQ(As("reader", *models(), &Stub::ModelMetadata, metadata, &got_metadata).ok(), mine);
    inference::ModelConfigRequest config;
    config.set_name(layer);
    inference::ModelConfigResponse got_config;
    EXPECT_EQ(As("reader", *models(), &Stub::ModelConfig, config, &got_config).ok(), mine);
    inference::ModelReadyRequest ready;
    ready.set_name(layer);
    inference::ModelReadyResponse got_ready;
    EXPECT_EQ(As("reader", *models(), &Stub::ModelReady, ready, &got_ready).ok(), mine);
    request.set_model_name(layer);
    EXPECT_THAT(As("root", *models(), &Stub::ModelInfer, request, &response), GrpcIsOk());
  }
  inference::ModelStatisticsResponse statistics;
  EXPECT_THAT(As("reader", *models(), &Stub::ModelStatistics, inference::ModelStatisticsRequest(), &statistics),
              GrpcIsOk());
  ASSERT_EQ(statistics.model_stats_size(), 1);
  EXPECT_EQ(statistics.model_stats(0).name(), "mine.a");
}

TEST_F(AccessTest, SnapshotsAreForAdminsOfAllThatTheyHold) {
  using Stub = v1::SnapshotService::Stub;
  const auto create = [&](const std::string& who, const std::string& name, const std::string& layer,
                          const std::string& prefix) {
    v1::CreateSnapshotRequest request;
    request.set_name(name);
    request.set_layer(layer);
    request.set_prefix(prefix);
    v1::CreateSnapshotResponse response;
    return As(who, *snapshots(), &Stub::CreateSnapshot, request, &response);
  };
  EXPECT_THAT(create("owner", "mine", "", "mine."), GrpcIsOk());
  EXPECT_THAT(create("owner", "one", "mine.a", ""), GrpcIsOk());
  EXPECT_THAT(create("owner", "all", "", ""), Denied("owner", "admin", "all layers"));
  EXPECT_THAT(create("owner", "m", "", "m"), Denied("owner", "admin", "all layers that start with 'm'"));
  EXPECT_THAT(create("owner", "o", "other", ""), Denied("owner", "admin", "layer 'other'"));
  EXPECT_THAT(create("root", "all", "", ""), GrpcIsOk());

  v1::ListSnapshotsResponse list;
  EXPECT_THAT(As("owner", *snapshots(), &Stub::ListSnapshots, v1::ListSnapshotsRequest(), &list), GrpcIsOk());
  std::vector<std::string> names;
  for (const v1::Snapshot& snapshot : list.snapshots()) names.push_back(snapshot.name());
  EXPECT_THAT(names, UnorderedElementsAre("mine", "one"));

  const auto restore = [&](const std::string& snapshot, const std::string& layer, const std::string& prefix,
                           const char* new_name) {
    v1::RestoreSnapshotRequest request;
    request.set_name(snapshot);
    request.mutable_selection()->set_layer(layer);
    request.mutable_selection()->set_prefix(prefix);
    if (new_name != nullptr) request.mutable_selection()->set_new_name(new_name);
    v1::RestoreSnapshotResponse response;
    return As("owner", *snapshots(), &Stub::RestoreSnapshot, request, &response);
  };
  EXPECT_THAT(restore("mine", "", "", nullptr), GrpcIsOk());
  EXPECT_THAT(restore("all", "", "", nullptr), Denied("owner", "admin", "all layers"));
  EXPECT_THAT(restore("all", "", "mine.", nullptr), GrpcIsOk());
  EXPECT_THAT(restore("all", "other", "", nullptr), Denied("owner", "admin", "layer 'other'"));
  EXPECT_THAT(restore("all", "mine.a", "", "stolen"), Denied("owner", "admin", "layer 'stolen'"));
  EXPECT_THAT(restore("all", "other", "", "mine.stolen"), Denied("owner", "admin", "layer 'other'"));
  EXPECT_THAT(restore("mine", "", "mine.", "x."), Denied("owner", "admin", "all layers that start with 'x.'"));
  EXPECT_THAT(restore("mine", "", "mine.", "mine.copy."), GrpcIsOk());

  v1::DeleteSnapshotRequest remove;
  remove.set_name("all");
  v1::DeleteSnapshotResponse removed;
  EXPECT_THAT(As("owner", *snapshots(), &Stub::DeleteSnapshot, remove, &removed),
              Denied("owner", "admin", "all layers"));
  remove.set_name("mine");
  EXPECT_THAT(As("owner", *snapshots(), &Stub::DeleteSnapshot, remove, &removed), GrpcIsOk());
}

TEST_F(AccessTest, TheWholeServerIsForWhoeverHasTheRoleForAllLayers) {
  const auto stub = snapshots();
  grpc::ClientContext backup_context;
  SetToken("owner", &backup_context);
  const auto backup = stub->Backup(&backup_context, {});
  v1::BackupResponse piece;
  EXPECT_FALSE(backup->Read(&piece));
  EXPECT_THAT(backup->Finish(), Denied("owner", "admin", "all layers"));

  grpc::ClientContext restore_context;
  SetToken("owner", &restore_context);
  v1::RestoreBackupResponse restored;
  const auto restore = stub->RestoreBackup(&restore_context, &restored);
  restore->WritesDone();
  EXPECT_THAT(restore->Finish(), Denied("owner", "admin", "all layers"));

  using Stub = v1::AdminService::Stub;
  v1::GetStatisticsResponse statistics;
  EXPECT_THAT(As("owner", *admin(), &Stub::GetStatistics, v1::GetStatisticsRequest(), &statistics),
              Denied("owner", "read", "all layers"));
  EXPECT_THAT(As("monitor", *admin(), &Stub::GetStatistics, v1::GetStatisticsRequest(), &statistics), GrpcIsOk());
  v1::GetLogLevelResponse level;
  EXPECT_THAT(As("owner", *admin(), &Stub::GetLogLevel, v1::GetLogLevelRequest(), &level),
              Denied("owner", "admin", "all layers"));
  v1::SetLogLevelRequest set;
  set.set_level(v1::LOG_LEVEL_DEBUG);
  v1::SetLogLevelResponse set_response;
  EXPECT_THAT(As("owner", *admin(), &Stub::SetLogLevel, set, &set_response), Denied("owner", "admin", "all layers"));
  EXPECT_THAT(As("root", *admin(), &Stub::SetLogLevel, set, &set_response), GrpcIsOk());
}

TEST_F(AccessTest, TwoTokensAreNone) {
  grpc::ClientContext context;
  SetToken("reader", &context);
  SetToken("root", &context);
  v1::ListLayersResponse response;
  EXPECT_THAT(layers()->ListLayers(&context, {}, &response),
              GrpcStatusIs(grpc::UNAUTHENTICATED, HasSubstr("there are 2 authorizations")));
}

TEST_F(AccessTest, TheLogHasNamesAndNoTokens) {
  EXPECT_THAT(Train("trainer", "mine.a"), GrpcIsOk());
  EXPECT_FALSE(Train("reader", "mine.a").ok());
  EXPECT_FALSE(Train("unknown", "mine.a").ok());
  EXPECT_FALSE(Train("", "mine.a").ok());
  const std::string log = log_->Text();
  EXPECT_THAT(log, AllOf(HasSubstr("identity=trainer"), HasSubstr("calls refused"), HasSubstr("/TrainStep")));
  for (const char* secret : {"-token", "Bearer", "bearer"}) EXPECT_THAT(log, Not(HasSubstr(secret)));
  v1::GetStatisticsResponse statistics;
  EXPECT_THAT(As("root", *admin(), &v1::AdminService::Stub::GetStatistics, v1::GetStatisticsRequest(), &statistics),
              GrpcIsOk());
  EXPECT_EQ(statistics.statistics().security().denied_calls(), 3);
}

TEST_F(AccessTest, WhoCallsTooOftenIsToldWhenToComeAgain) {
  EXPECT_THAT(Train("slow", "other"), GrpcIsOk());
  grpc::Status status = grpc::Status::OK;
  // A slow machine may let a second pass.
  for (int i = 0; i < 100 && status.ok(); ++i) status = Train("slow", "other");
  EXPECT_THAT(status, GrpcStatusIs(grpc::RESOURCE_EXHAUSTED, HasSubstr("'slow' makes more calls than")));
  v1::ErrorStatus details;
  ASSERT_TRUE(details.ParseFromString(status.error_details()));
  ASSERT_EQ(details.details_size(), 1);
  v1::RetryInfo info;
  ASSERT_TRUE(info.ParseFromString(details.details(0).value()));
  EXPECT_GT(info.retry_delay().nanos() + info.retry_delay().seconds(), 0);
  EXPECT_LE(info.retry_delay().seconds(), 1);
  // Others go on.
  EXPECT_THAT(Train("root", "other"), GrpcIsOk());
}

TEST(AccessWithoutFile, TheRateIsThatOfAll) {
  app::ServerOptions options = TestOptions();
  options.access.calls_per_second = 1;
  TestServer server(options);
  v1::ListLayersResponse response;
  grpc::Status status = grpc::Status::OK;
  for (int i = 0; i < 100 && status.ok(); ++i) {
    status = Call(server.layers(), &v1::LayerService::Stub::ListLayers, v1::ListLayersRequest(), &response);
  }
  EXPECT_THAT(status, GrpcStatusIs(grpc::RESOURCE_EXHAUSTED, HasSubstr("more calls come than")));
}

TEST(StreamsPerConnection, MoreWait) {
  app::ServerOptions options = TestOptions();
  options.max_streams_per_connection = 1;
  TestServer server(options);
  server.Create("bn", 2);
  grpc::ClientContext watch_context;
  const auto watch = server.layers().WatchLayers(&watch_context, {});
  v1::WatchLayersResponse version;
  ASSERT_TRUE(watch->Read(&version));

  v1::ListLayersResponse response;
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(300));
  EXPECT_EQ(server.layers().ListLayers(&context, {}, &response).error_code(), grpc::DEADLINE_EXCEEDED);
  const auto other = v1::LayerService::NewStub(NewChannel(server.address()));
  EXPECT_THAT(Call(*other, &v1::LayerService::Stub::ListLayers, v1::ListLayersRequest(), &response), GrpcIsOk());
  watch_context.TryCancel();
  EXPECT_EQ(watch->Finish().error_code(), grpc::CANCELLED);
}

}  // namespace
}  // namespace normd::tests
