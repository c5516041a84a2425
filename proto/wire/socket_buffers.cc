#include "proto/wire/socket_buffers.h"

#include <grpc/support/sync.h>
#include <grpcpp/version_info.h>
#include <sys/socket.h>

#include "proto/wire/loopback.h"

// gRPC takes a socket mutator through its public API, but declares it in a header that it does not install. These are
// the declarations of the version below, under the names that gRPC gives them.
#if GRPC_CPP_VERSION_MAJOR == 1 && GRPC_CPP_VERSION_MINOR == 51
#define NORMD_HAS_SOCKET_MUTATOR 1

struct grpc_mutate_socket_info {
  int fd;
  int usage;  // An enum: client connection, server listener, server connection.
};

struct grpc_socket_mutator_vtable {
  bool (*mutate_fd)(int fd, grpc_socket_mutator* mutator);
  int (*compare)(grpc_socket_mutator* a, grpc_socket_mutator* b);
  void (*destroy)(grpc_socket_mutator* mutator);
  // Used instead of mutate_fd if it is there, which is called for client connections only.
  bool (*mutate_fd_2)(const grpc_mutate_socket_info* info, grpc_socket_mutator* mutator);
};

struct grpc_socket_mutator {
  const grpc_socket_mutator_vtable* vtable;
  gpr_refcount refcount;
};
#endif

namespace normd::wire {

#ifdef NORMD_HAS_SOCKET_MUTATOR
namespace {

// The kernel doubles these numbers.
//
// Unix sockets: twice the usual 208 KB, and every system allows as much. Measured over the usual: answers of 8 MB come
// 1.14 times as fast; with 2 MB 1.2 times, but then small calls beside large ones wait 13 times as long as alone
// instead of 9 times (6 with the usual).
constexpr int kUnixSendBytes = 208 << 10;
// TCP to this machine: left to itself the kernel lets the sender run megabytes ahead of the reader, out of all caches.
// Measured over that, `normctl bench`, 25.7 MB there and back: 4 to 9 calls a second, 16 to 38 with this; 8 MB from
// four callers 2.7 times as many; small calls as many. With 64 KB 0.8 times as many, with 32 KB calls stop altogether.
constexpr int kLoopbackSendBytes = 128 << 10;

void SetSendBuffer(int fd, int bytes) {
  // Another size is no reason to refuse the connection.
  setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
}

// loopback: whether a socket that has no peer yet will have one on this machine.
void Adjust(int fd, bool loopback) {
  sockaddr_storage peer = {};
  socklen_t size = sizeof(peer);
  int family = 0;
  socklen_t family_size = sizeof(family);
  if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &family_size) != 0) return;
  if (family == AF_UNIX) {
    SetSendBuffer(fd, kUnixSendBytes);
  } else if (loopback || (getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &size) == 0 && IsLoopback(peer))) {
    SetSendBuffer(fd, kLoopbackSendBytes);
  }
}

template <bool kLoopback>
constexpr grpc_socket_mutator_vtable kVtable = {
    .mutate_fd = [](int fd, grpc_socket_mutator*) { return Adjust(fd, kLoopback), true; },
    // Those with one table are alike.
    .compare = [](grpc_socket_mutator*, grpc_socket_mutator*) { return 0; },
    // There are two, for ever.
    .destroy = [](grpc_socket_mutator*) {},
    .mutate_fd_2 = [](const grpc_mutate_socket_info* info,
                      grpc_socket_mutator*) { return Adjust(info->fd, kLoopback), true; },
};

template <bool kLoopback>
grpc_socket_mutator* Mutator() {
  static grpc_socket_mutator* const mutator = [] {
    auto* made = new grpc_socket_mutator{.vtable = &kVtable<kLoopback>, .refcount = {}};
    gpr_ref_init(&made->refcount, 1);
    return made;
  }();
  // For the caller.
  gpr_ref(&mutator->refcount);
  return mutator;
}

}  // namespace

void SetSocketBuffers(bool to_loopback, grpc::ChannelArguments* arguments) {
  arguments->SetSocketMutator(to_loopback ? Mutator<true>() : Mutator<false>());
}
#else
void SetSocketBuffers(bool, grpc::ChannelArguments*) {}
#endif

}  // namespace normd::wire
