#ifndef NORMD_TESTS_BENCHMARKS_RPC_CHANNEL_H_
#define NORMD_TESTS_BENCHMARKS_RPC_CHANNEL_H_

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"

namespace normd::benchmarks {

// A connected channel as a user of plain gRPC opens it, without limits on messages. UNAVAILABLE: nobody answers.
inline absl::StatusOr<std::shared_ptr<grpc::Channel>> ConnectChannel(const std::string& target) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  arguments.SetMaxSendMessageSize(-1);
  // As in normd's SDK: for its retries gRPC would keep every message until it is answered.
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  std::shared_ptr<grpc::Channel> channel =
      grpc::CreateCustomChannel(target, grpc::InsecureChannelCredentials(), arguments);
  if (!channel->WaitForConnected(std::chrono::system_clock::now() + std::chrono::seconds(20))) {
    return absl::UnavailableError(absl::StrCat("cannot connect to ", target));
  }
  return channel;
}

}  // namespace normd::benchmarks

#endif  // NORMD_TESTS_BENCHMARKS_RPC_CHANNEL_H_
