#ifndef NORMD_PROTO_WIRE_LOOPBACK_H_
#define NORMD_PROTO_WIRE_LOOPBACK_H_

#include <sys/socket.h>

#include "absl/strings/string_view.h"

namespace normd::wire {

// Whether an address leads to this machine and nowhere else: one of 127.0.0.0/8, also as an IPv6 address, or ::1.
bool IsLoopback(const sockaddr_storage& address);
// The same of an address as text, without brackets and port, or the name localhost. Other names are not looked up: what
// they stand for can change.
bool IsLoopbackHost(absl::string_view host);

}  // namespace normd::wire

#endif  // NORMD_PROTO_WIRE_LOOPBACK_H_
