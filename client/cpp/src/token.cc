#include "client/cpp/src/token.h"

#include <grpcpp/support/interceptor.h>

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "client/cpp/src/file.h"
#include "client/cpp/src/target.h"
#include "client/cpp/src/warning.h"

namespace normd::internal {
namespace {

// More than any server takes in the headers of a call.
constexpr std::size_t kMostBytes = 4096;

// What RFC 6750 (section 2.1) allows. gRPC would end the process over characters that no header may hold.
absl::Status Check(absl::string_view token, absl::string_view whose) {
  if (token.empty()) return absl::InvalidArgumentError(absl::StrCat(whose, " is empty"));
  if (token.size() > kMostBytes) {
    return absl::InvalidArgumentError(absl::StrCat(whose, " has ", token.size(), " bytes, want at most ", kMostBytes));
  }
  for (std::size_t i = 0; i < token.size(); ++i) {
    if (absl::ascii_isalnum(static_cast<unsigned char>(token[i])) ||
        absl::string_view("-._~+/=").find(token[i]) != absl::string_view::npos) {
      continue;
    }
    return absl::InvalidArgumentError(absl::StrCat(whose, " holds, as byte ", i + 1,
                                                   ", what is neither a letter, a digit, nor one of - . _ ~ + / ="));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> Read(const std::string& file) {
  const std::string whose = absl::StrCat("token_file '", file, "'");
  absl::StatusOr<std::string> token = ReadFile(file, whose);
  if (!token.ok()) return token;
  absl::StripTrailingAsciiWhitespace(&*token);
  if (const absl::Status status = Check(*token, whose); !status.ok()) {
    return absl::FailedPreconditionError(status.message());
  }
  return token;
}

class Interceptor final : public grpc::experimental::Interceptor {
 public:
  explicit Interceptor(std::shared_ptr<Token> token) : token_(std::move(token)) {}

  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(grpc::experimental::InterceptionHookPoints::PRE_SEND_INITIAL_METADATA)) {
      methods->GetSendInitialMetadata()->emplace("authorization", token_->Header());
    }
    methods->Proceed();
  }

 private:
  const std::shared_ptr<Token> token_;
};

class InterceptorFactory final : public grpc::experimental::ClientInterceptorFactoryInterface {
 public:
  explicit InterceptorFactory(std::shared_ptr<Token> token) : token_(std::move(token)) {}

  grpc::experimental::Interceptor* CreateClientInterceptor(grpc::experimental::ClientRpcInfo* /*info*/) override {
    return new Interceptor(token_);
  }

 private:
  const std::shared_ptr<Token> token_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<Token>> Token::Create(absl::string_view target, const ClientOptions& options) {
  if (options.token.empty() && options.token_file.empty()) return std::shared_ptr<Token>();
  if (!options.token.empty() && !options.token_file.empty()) {
    return absl::InvalidArgumentError("got both token and token_file, want one of them");
  }
  if (!options.tls.has_value() && !options.allow_token_without_tls && !IsUnixSocket(target) && !IsLoopback(target)) {
    return absl::InvalidArgumentError(absl::StrCat("a token would travel to '", target,
                                                   "' for anyone to read: want TLS, a Unix socket or loopback, or "
                                                   "allow_token_without_tls"));
  }
  std::string token = options.token;
  if (!options.token_file.empty()) {
    absl::StatusOr<std::string> read = Read(options.token_file);
    if (!read.ok()) return read.status();
    token = *std::move(read);
  } else if (absl::Status status = Check(token, "token"); !status.ok()) {
    return status;
  }
  return std::shared_ptr<Token>(
      new Token(std::move(token), options.token_file, options.on_warning ? options.on_warning : PrintWarning));
}

Token::Token(std::string token, std::string file, std::function<void(absl::string_view)> on_warning)
    : file_(std::move(file)), on_warning_(std::move(on_warning)), header_(absl::StrCat("Bearer ", token)) {}

std::string Token::Header() {
  absl::StatusOr<std::string> token = file_.empty() ? std::string() : Read(file_);
  if (!token.ok() && !warned_.exchange(true)) {
    on_warning_(absl::StrCat(token.status().message(), "; calls go on with the token of before"));
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  if (token.ok() && !token->empty()) {
    warned_ = false;
    header_ = absl::StrCat("Bearer ", *token);
  }
  return header_;
}

std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface> NewTokenInterceptors(
    std::shared_ptr<Token> token) {
  return std::make_unique<InterceptorFactory>(std::move(token));
}

}  // namespace normd::internal
