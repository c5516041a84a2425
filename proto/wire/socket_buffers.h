#ifndef NORMD_PROTO_WIRE_SOCKET_BUFFERS_H_
#define NORMD_PROTO_WIRE_SOCKET_BUFFERS_H_

#include <grpcpp/support/channel_arguments.h>

namespace normd::wire {

// Makes the Unix sockets of a channel or a server send from a buffer of twice the usual size: writer and reader of a
// large tensor wake each other less often. Each end sets its own direction. TCP is left alone, whose buffers grow by
// themselves. Does nothing with a
// version of gRPC that it does not know.
void UseLargeUnixSocketBuffers(grpc::ChannelArguments* arguments);

}  // namespace normd::wire

#endif  // NORMD_PROTO_WIRE_SOCKET_BUFFERS_H_
