#ifndef NORMD_CLIENT_CPP_SRC_TOKEN_H_
#define NORMD_CLIENT_CPP_SRC_TOKEN_H_

#include <grpcpp/support/client_interceptor.h>

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "normd/options.h"

namespace normd::internal {

// The token that each call of a channel carries. No message shows it. Thread-safe.
class Token {
 public:
  // Null: the options have none. INVALID_ARGUMENT: they contradict themselves, hold what is no token, or would show it
  // to the network. FAILED_PRECONDITION: its file cannot be used.
  static absl::StatusOr<std::shared_ptr<Token>> Create(absl::string_view target, const ClientOptions& options);

  // The value of the header, with the file as it is now. While that cannot be used the last token goes on: whoever
  // replaces a file may do it in two steps.
  std::string Header();

 private:
  Token(std::string token, std::string file, std::function<void(absl::string_view)> on_warning);

  const std::string file_;  // Empty: the token stays.
  const std::function<void(absl::string_view)> on_warning_;
  std::atomic<bool> warned_ = false;
  std::mutex mutex_;
  std::string header_;  // Guarded by mutex_.
};

// Puts the token on every call of a channel, of whatever kind.
std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface> NewTokenInterceptors(
    std::shared_ptr<Token> token);

}  // namespace normd::internal

#endif  // NORMD_CLIENT_CPP_SRC_TOKEN_H_
