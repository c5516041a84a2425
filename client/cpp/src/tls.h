#ifndef NORMD_CLIENT_CPP_SRC_TLS_H_
#define NORMD_CLIENT_CPP_SRC_TLS_H_

#include <grpcpp/security/credentials.h>

#include <memory>

#include "absl/status/statusor.h"
#include "normd/options.h"

namespace normd::internal {

// What a channel with TLS is made with. The files are read here, and looked at, since gRPC would only say that no
// connection comes about. INVALID_ARGUMENT: the options contradict themselves. FAILED_PRECONDITION: a file does not
// hold what it should.
absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> TlsCredentials(const TlsOptions& options);

}  // namespace normd::internal

#endif  // NORMD_CLIENT_CPP_SRC_TLS_H_
