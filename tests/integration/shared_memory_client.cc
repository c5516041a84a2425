// A client to be killed: shared_memory_client ADDRESS NAME opens a session, registers 8192 bytes of a new shared-memory
// object, removes its name, prints the session and waits for ever.

#include <fcntl.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <memory>

#include "normd/v1/shared_memory_service.grpc.pb.h"

namespace {

constexpr int kBytes = 8192;

int Fail(const char* what) {
  std::fprintf(stderr, "shared_memory_client: %s\n", what);
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return Fail("want ADDRESS NAME");
  const auto stub =
      normd::v1::SharedMemoryService::NewStub(grpc::CreateChannel(argv[1], grpc::InsecureChannelCredentials()));
  grpc::ClientContext stream_context;
  const auto stream = stub->OpenSession(&stream_context, normd::v1::OpenSessionRequest());
  normd::v1::OpenSessionResponse session;
  if (!stream->Read(&session)) return Fail("no session");

  const int fd = shm_open(argv[2], O_RDWR | O_CREAT | O_EXCL, 0600);
  if (fd < 0 || ftruncate(fd, kBytes) != 0) return Fail("no object");
  if (pwrite(fd, session.key().data(), session.key().size(), 0) < 0) return Fail("no key");
  normd::v1::RegisterRegionRequest request;
  request.set_session(session.session());
  request.set_name(argv[2]);
  request.set_size_bytes(kBytes);
  normd::v1::RegisterRegionResponse response;
  grpc::ClientContext context;
  const grpc::Status status = stub->RegisterRegion(&context, request, &response);
  shm_unlink(argv[2]);
  if (!status.ok()) return Fail(status.error_message().c_str());

  std::printf("%s\n", session.session().c_str());
  std::fflush(stdout);
  while (true) pause();
}
