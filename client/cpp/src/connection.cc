#include "client/cpp/src/connection.h"

#include <grpc/grpc.h>
#include <grpc/support/time.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cpp/src/target.h"
#include "client/cpp/src/tls.h"
#include "client/cpp/src/token.h"
#include "proto/wire/socket_buffers.h"

namespace normd::internal {
namespace {

int ToMilliseconds(absl::Duration duration) {
  return static_cast<int>(std::clamp<int64_t>(absl::ToInt64Milliseconds(duration), 0, std::numeric_limits<int>::max()));
}

// gRPC takes itself down with its last channel, and waits for a thread of its own that may be polling for 10 s: so long
// a program would take to end, and it would start gRPC again with the next client.
void KeepGrpcUp() {
  static const bool up = (grpc_init(), true);
  static_cast<void>(up);
}

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> CredentialsOf(const std::string& target,
                                                                        const ClientOptions& options) {
  if (!options.tls.has_value()) return grpc::InsecureChannelCredentials();
  if (IsUnixSocket(target)) {
    return absl::InvalidArgumentError(absl::StrCat("got tls for '", target, "', want none: Unix sockets have no TLS"));
  }
  return TlsCredentials(*options.tls);
}

// Answers every call with `status`.
std::shared_ptr<grpc::Channel> BrokenChannel(const std::string& target, const absl::Status& status) {
  return grpc::CreateChannelInternal(
      "",
      grpc_lame_client_channel_create(target.c_str(), static_cast<grpc_status_code>(status.code()),
                                      std::string(status.message()).c_str()),
      {});
}

std::shared_ptr<grpc::Channel> OpenChannel(const std::string& target, const ClientOptions& options) {
  KeepGrpcUp();
  const absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> credentials = CredentialsOf(target, options);
  if (!credentials.ok()) return BrokenChannel(target, credentials.status());
  absl::StatusOr<std::shared_ptr<Token>> token = Token::Create(target, options);
  if (!token.ok()) return BrokenChannel(target, token.status());
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(
      static_cast<int>(std::clamp<int64_t>(options.max_message_bytes, 0, std::numeric_limits<int>::max())));
  arguments.SetMaxSendMessageSize(-1);
  wire::SetSocketBuffers(IsLoopback(target), &arguments);
  // Each client has its own connection, so that one busy client does not slow another one of the process.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  // The retries are ours (they know about request_id and the caller's policy). gRPC's would keep a copy of each
  // message.
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  // While gRPC waits before it connects again, calls fail without a try; its own first wait of 1 s would make our
  // shorter pauses pointless. 100 ms is the least that it takes.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, ToMilliseconds(options.retry.initial_backoff));
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, ToMilliseconds(options.retry.max_backoff));
  // A proxy's loopback is another machine's.
  if (IsLoopback(target)) arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  if (options.tls.has_value() && !options.tls->server_name.empty()) {
    arguments.SetSslTargetNameOverride(options.tls->server_name);
  }
  if (*token == nullptr) return grpc::CreateCustomChannel(target, *credentials, arguments);
  std::vector<std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface>> interceptors;
  interceptors.push_back(NewTokenInterceptors(*std::move(token)));
  return grpc::experimental::CreateCustomChannelWithInterceptors(target, *credentials, arguments,
                                                                 std::move(interceptors));
}

}  // namespace

Connection::Connection(absl::string_view target, const ClientOptions& options, std::shared_ptr<Runtime> runtime)
    : target_(target),
      options_(options),
      runtime_(std::move(runtime)),
      stub_(OpenChannel(target_, options)),
      buffers_(options.max_buffer_bytes) {}

void Connection::Wait() {
  std::unique_lock<std::mutex> lock(mutex_);
  idle_.wait(lock, [this] { return pending_ == 0; });
}

void Connection::RunSoon(std::function<void()> action) {
  AddPending();
  runtime_->After(absl::ZeroDuration(), [this, action = std::move(action)]() mutable {
    std::exchange(action, nullptr)();
    RemovePending();
  });
}

std::shared_ptr<ByteStream> Connection::OpenStream(const std::string& method, absl::string_view layer,
                                                   absl::Duration timeout, ByteStream::Events events,
                                                   absl::string_view traceparent) {
  AddPending();
  auto context = std::make_unique<grpc::ClientContext>();
  AddMetadata(layer, traceparent, context.get());
  if (!SetTimeLeft(timeout, context.get())) context->set_deadline(gpr_now(GPR_CLOCK_MONOTONIC));
  events.ended = [this, ended = std::move(events.ended)](const grpc::Status& status) {
    ended(status);
    RemovePending();
  };
  return ByteStream::Start(stub_.generic(), method, std::move(context), std::move(events));
}

grpc::Status Connection::NoTimeLeft() {
  return {grpc::StatusCode::DEADLINE_EXCEEDED, "the timeout passed before the call was sent"};
}

bool Connection::SetTimeLeft(absl::Duration left, grpc::ClientContext* context) {
  if (left <= absl::ZeroDuration()) return false;
  if (left == absl::InfiniteDuration()) return true;
  // Monotonic, so that a correction of the wall clock neither ends a call nor keeps it alive.
  context->set_deadline(
      gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_micros(absl::ToInt64Microseconds(left), GPR_TIMESPAN)));
  return true;
}

absl::Status Connection::Failure(const grpc::Status& status, const Attempts& attempts,
                                 absl::string_view request_id) const {
  const grpc::Status said =
      IsOfStoppingServer(status) ? grpc::Status(grpc::StatusCode::UNAVAILABLE, "the server is stopping") : status;
  return ToAbslStatus(said, {target_, attempts.count(), attempts.timeout(), request_id});
}

void Connection::AddPending() {
  const std::lock_guard<std::mutex> lock(mutex_);
  ++pending_;
}

void Connection::RemovePending() {
  const std::lock_guard<std::mutex> lock(mutex_);
  // Under the lock: once it is released the destructor may be through.
  if (--pending_ == 0) idle_.notify_all();
}

}  // namespace normd::internal
