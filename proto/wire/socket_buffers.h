#ifndef NORMD_PROTO_WIRE_SOCKET_BUFFERS_H_
#define NORMD_PROTO_WIRE_SOCKET_BUFFERS_H_

#include <grpcpp/support/channel_arguments.h>

namespace normd::wire {

// Sizes the send buffers of a channel's or a server's connections within this machine: Unix sockets get twice the usual
// size, so that writer and reader of a large tensor wake each other less often, and TCP over loopback a fixed one, so
// that the writer does not run far ahead. Each end sets its own direction. Connections between machines are left alone,
// whose buffers grow by themselves. Does nothing with a version of gRPC that it does not know.
// to_loopback: whether a channel's target is a loopback address; a server looks at its peers.
void SetSocketBuffers(bool to_loopback, grpc::ChannelArguments* arguments);

}  // namespace normd::wire

#endif  // NORMD_PROTO_WIRE_SOCKET_BUFFERS_H_
