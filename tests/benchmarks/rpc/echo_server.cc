// The least that a gRPC server can do: sends back what it receives (baseline.proto, service Echo).
//
//   echo_server --unix-socket PATH [--default-allocator]
//
// Listens on a free port of 127.0.0.1 and on the socket, says so on stdout as normd does, and ends with SIGTERM.
#include <grpcpp/grpcpp.h>
#include <signal.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <string>

#include "baseline.grpc.pb.h"
#include "server/base/process_settings.h"
#include "server/kernels/parallelism.h"

namespace normd::benchmarks {
namespace {

using EchoBase = Echo::WithRawCallbackMethod_Raw<Echo::WithCallbackMethod_Protobuf<Echo::Service>>;

// gRPC hands requests over as const, but nobody reads them after the handler: both methods move instead of copying.
class EchoService final : public EchoBase {
  grpc::ServerUnaryReactor* Protobuf(grpc::CallbackServerContext* context, const Blob* request,
                                     Blob* response) override {
    response->mutable_data()->swap(*const_cast<Blob*>(request)->mutable_data());
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

  grpc::ServerUnaryReactor* Raw(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                grpc::ByteBuffer* response) override {
    response->Swap(const_cast<grpc::ByteBuffer*>(request));
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }
};

int Serve(const std::string& unix_socket) {
  // Blocked before gRPC starts its threads, so that only sigwait sees them.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);

  EchoService service;
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.AddListeningPort("unix:" + unix_socket, grpc::InsecureServerCredentials());
  builder.SetMaxReceiveMessageSize(-1);
  builder.SetMaxSendMessageSize(-1);
  builder.RegisterService(&service);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr || port == 0) {
    std::fprintf(stderr, "echo_server: cannot listen on 127.0.0.1 and %s\n", unix_socket.c_str());
    return 1;
  }
  std::printf("echo_server listening on 127.0.0.1:%d\necho_server listening on unix:%s\n", port, unix_socket.c_str());
  std::fflush(stdout);
  int signal = 0;
  sigwait(&signals, &signal);
  server->Shutdown(std::chrono::system_clock::now());
  return 0;
}

}  // namespace
}  // namespace normd::benchmarks

int main(int argc, char** argv) {
  CLI::App app("Sends back what it receives");
  std::string unix_socket;
  bool default_allocator = false;
  app.add_option("--unix-socket", unix_socket, "path of the socket to listen on")->required();
  app.add_flag("--default-allocator", default_allocator, "give freed memory back, as malloc does unasked");
  CLI11_PARSE(app, argc, argv);
  // As normd does, so that no side pays for what the other is spared.
  if (!default_allocator) normd::base::KeepFreedMemory(normd::kernels::AvailableCores());
  normd::base::TrustLockOrder();
  return normd::benchmarks::Serve(unix_socket);
}
