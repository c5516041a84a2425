#ifndef NORMD_TESTS_CLIENT_GUARDED_SERVER_H_
#define NORMD_TESTS_CLIENT_GUARDED_SERVER_H_

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/client/fake_shared_memory.h"

namespace normd::tests {

// Notes what token and what layer each call carries, of whatever method. Without the right one a call is
// UNAUTHENTICATED; with it it gets past the door, and is UNIMPLEMENTED. Sessions of shared memory are real.
// Thread-safe.
class GuardedServer {
 public:
  // On a free port of `host`, or the path of a Unix socket.
  GuardedServer(std::string token, std::shared_ptr<grpc::ServerCredentials> credentials,
                const std::string& host = "localhost")
      : token_(std::move(token)), generic_(this), memory_(this) {
    const bool is_socket = host.starts_with("unix:");
    int port = 0;
    grpc::ServerBuilder builder;
    builder.AddListeningPort(is_socket ? host : host + ":0", std::move(credentials), &port);
    builder.RegisterService(&memory_);
    builder.RegisterCallbackGenericService(&generic_);
    server_ = builder.BuildAndStart();
    EXPECT_NE(server_, nullptr);
    target_ = is_socket ? host : absl::StrCat(host, ":", port);
  }
  ~GuardedServer() {
    memory_.EndSessions();
    server_->Shutdown();
  }

  const std::string& target() const { return target_; }
  void set_token(std::string token) {
    const std::lock_guard<std::mutex> lock(mutex_);
    token_ = std::move(token);
  }

  // What the headers `authorization` of each call were so far, by the method's full name.
  std::map<std::string, std::vector<std::string>> seen() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return seen_;
  }
  // The same of the headers `normd-layer`.
  std::map<std::string, std::vector<std::string>> layers() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return layers_;
  }

 private:
  // The whole of a call.
  class Answer : public grpc::ServerGenericBidiReactor {
   public:
    explicit Answer(const grpc::Status& status) { Finish(status); }
    void OnDone() override { delete this; }
  };

  class Generic : public grpc::CallbackGenericService {
   public:
    explicit Generic(GuardedServer* owner) : owner_(owner) {}
    grpc::ServerGenericBidiReactor* CreateReactor(grpc::GenericCallbackServerContext* context) override {
      const grpc::Status status = owner_->Admit(context->method(), *context);
      return new Answer(status.ok() ? grpc::Status(grpc::StatusCode::UNIMPLEMENTED, "past the door") : status);
    }

   private:
    GuardedServer* const owner_;
  };

  class Memory : public testing::FakeSharedMemory {
   public:
    explicit Memory(GuardedServer* owner) : owner_(owner) {}
    grpc::Status OpenSession(grpc::ServerContext* context, const v1::OpenSessionRequest* request,
                             grpc::ServerWriter<v1::OpenSessionResponse>* writer) override {
      const grpc::Status status = owner_->Admit("/normd.v1.SharedMemoryService/OpenSession", *context);
      return status.ok() ? FakeSharedMemory::OpenSession(context, request, writer) : status;
    }
    grpc::Status RegisterRegion(grpc::ServerContext* context, const v1::RegisterRegionRequest* request,
                                v1::RegisterRegionResponse* response) override {
      const grpc::Status status = owner_->Admit("/normd.v1.SharedMemoryService/RegisterRegion", *context);
      return status.ok() ? FakeSharedMemory::RegisterRegion(context, request, response) : status;
    }

   private:
    GuardedServer* const owner_;
  };

  static std::string Header(const grpc::ServerContextBase& context, const std::string& name) {
    const auto [begin, end] = context.client_metadata().equal_range(name);
    std::string header;
    for (auto entry = begin; entry != end; ++entry) {
      absl::StrAppend(&header, header.empty() ? "" : "|", std::string(entry->second.data(), entry->second.size()));
    }
    return header;
  }

  grpc::Status Admit(const std::string& method, const grpc::ServerContextBase& context) {
    const std::string header = Header(context, "authorization");
    const std::lock_guard<std::mutex> lock(mutex_);
    seen_[method].push_back(header);
    layers_[method].push_back(Header(context, "normd-layer"));
    if (header == "Bearer " + token_) return grpc::Status::OK;
    return {grpc::StatusCode::UNAUTHENTICATED, header.empty() ? "no token" : "unknown token"};
  }

  mutable std::mutex mutex_;
  // All guarded by mutex_.
  std::string token_;
  std::map<std::string, std::vector<std::string>> seen_;
  std::map<std::string, std::vector<std::string>> layers_;
  Generic generic_;
  Memory memory_;
  std::string target_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace normd::tests

#endif  // NORMD_TESTS_CLIENT_GUARDED_SERVER_H_
