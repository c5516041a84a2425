#include "server/store/redis/redis_connection.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace normd::store {
namespace {

constexpr std::size_t kBufferBytes = 64 << 10;

// The latest of this thread's errors in OpenSSL, in words.
std::string TlsError() {
  const unsigned long error = ERR_get_error();
  ERR_clear_error();
  const char* const reason = error == 0 ? nullptr : ERR_reason_error_string(error);
  return reason == nullptr ? "the connection was closed" : reason;
}

absl::Status FileError(absl::string_view option, const std::string& path) {
  return absl::FailedPreconditionError(absl::StrCat("store option ", option, ": cannot use ", path, ": ", TlsError()));
}

absl::Status LoadFiles(const RedisLocation& location, SSL_CTX* context) {
  if (location.ca_file.empty()) {
    SSL_CTX_set_default_verify_paths(context);
  } else if (SSL_CTX_load_verify_locations(context, location.ca_file.c_str(), nullptr) != 1) {
    return FileError("ca", location.ca_file);
  }
  if (!location.cert_file.empty() && SSL_CTX_use_certificate_chain_file(context, location.cert_file.c_str()) != 1) {
    return FileError("cert", location.cert_file);
  }
  if (!location.key_file.empty() &&
      SSL_CTX_use_PrivateKey_file(context, location.key_file.c_str(), SSL_FILETYPE_PEM) != 1) {
    return FileError("key", location.key_file);
  }
  return absl::OkStatus();
}

void AppendCommand(const RedisCommand& command, std::string* bytes) {
  std::vector<const char*> arguments;
  std::vector<std::size_t> sizes;
  for (const std::string& argument : command) {
    arguments.push_back(argument.data());
    sizes.push_back(argument.size());
  }
  char* formatted = nullptr;
  const int size = redisFormatCommandArgv(&formatted, static_cast<int>(command.size()), arguments.data(), sizes.data());
  if (size > 0) bytes->append(formatted, static_cast<std::size_t>(size));
  redisFreeCommand(formatted);
}

}  // namespace

absl::StatusOr<std::unique_ptr<RedisConnection>> RedisConnection::Open(const RedisEndpoint& endpoint,
                                                                       const RedisLocation& location,
                                                                       bool authenticate) {
  std::unique_ptr<RedisConnection> connection(new RedisConnection);
  connection->endpoint_ = endpoint;
  connection->reader_.reset(redisReaderCreate());
  connection->buffer_.resize(kBufferBytes);
  const absl::Time deadline = absl::Now() + location.connect_timeout;
  absl::Status status = connection->Connect(deadline);
  if (status.ok() && location.tls) status = connection->StartTls(location, deadline);
  if (status.ok() && authenticate) status = connection->Login(location);
  if (!status.ok()) return status;
  return connection;
}

RedisConnection::~RedisConnection() {
  if (socket_ >= 0) close(socket_);
}

absl::Status RedisConnection::Error(absl::string_view what) const {
  return absl::UnavailableError(absl::StrCat("redis ", endpoint_.ToString(), ": ", what));
}

absl::Status RedisConnection::Connect(absl::Time deadline) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int failed = getaddrinfo(endpoint_.host.c_str(), std::to_string(endpoint_.port).c_str(), &hints, &found);
  if (failed != 0) return Error(gai_strerror(failed));
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> addresses(found, &freeaddrinfo);
  absl::Status status = Error("it has no address");
  for (const addrinfo* address = found; address != nullptr; address = address->ai_next) {
    if (socket_ >= 0) close(socket_);
    socket_ = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (socket_ < 0) return Error(std::strerror(errno));
    int error = 0;
    if (connect(socket_, address->ai_addr, address->ai_addrlen) != 0) {
      error = errno;
      if (error == EINPROGRESS) {
        status = Await(POLLOUT, deadline);
        if (!status.ok()) continue;
        socklen_t size = sizeof(error);
        getsockopt(socket_, SOL_SOCKET, SO_ERROR, &error, &size);
      }
    }
    if (error == 0) {
      const int on = 1;
      setsockopt(socket_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
      return absl::OkStatus();
    }
    status = Error(std::strerror(error));
  }
  return status;
}

absl::Status RedisConnection::StartTls(const RedisLocation& location, absl::Time deadline) {
  tls_context_.reset(SSL_CTX_new(TLS_client_method()));
  SSL_CTX_set_min_proto_version(tls_context_.get(), TLS1_2_VERSION);
  SSL_CTX_set_verify(tls_context_.get(), SSL_VERIFY_PEER, nullptr);
  if (absl::Status status = LoadFiles(location, tls_context_.get()); !status.ok()) return status;
  tls_.reset(SSL_new(tls_context_.get()));
  plain_.resize(kBufferBytes);
  // In memory: OpenSSL's own sockets raise SIGPIPE.
  SSL_set_bio(tls_.get(), BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
  in6_addr address;
  const char* const host = endpoint_.host.c_str();
  if (inet_pton(AF_INET, host, &address) == 1 || inet_pton(AF_INET6, host, &address) == 1) {
    X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(tls_.get()), host);
  } else {
    SSL_set1_host(tls_.get(), host);
    SSL_set_tlsext_host_name(tls_.get(), host);
  }
  while (true) {
    const int done = SSL_connect(tls_.get());
    const int error = SSL_get_error(tls_.get(), done);
    const std::string cause = done == 1 || error == SSL_ERROR_WANT_READ ? "" : TlsError();
    if (absl::Status status = Flush(deadline); !status.ok()) return status;
    if (done == 1) return absl::OkStatus();
    if (error != SSL_ERROR_WANT_READ) {
      const long verified = SSL_get_verify_result(tls_.get());
      return Error(absl::StrCat("TLS: ", cause, verified == X509_V_OK ? "" : ": ",
                                verified == X509_V_OK ? "" : X509_verify_cert_error_string(verified)));
    }
    absl::StatusOr<absl::string_view> bytes = ReceiveRaw(deadline);
    if (!bytes.ok()) return bytes.status();
    BIO_write(SSL_get_rbio(tls_.get()), bytes->data(), static_cast<int>(bytes->size()));
  }
}

absl::Status RedisConnection::Login(const RedisLocation& location) {
  std::vector<RedisCommand> commands;
  if (!location.password.empty()) {
    commands.push_back({"AUTH"});
    if (!location.user.empty()) commands.back().push_back(location.user);
    commands.back().push_back(location.password);
  }
  if (location.database != 0) commands.push_back({"SELECT", absl::StrCat(location.database)});
  commands.push_back({"CLIENT", "SETNAME", "normd"});
  absl::StatusOr<std::vector<RedisReply>> replies = Call(commands, location.command_timeout);
  if (!replies.ok()) return replies.status();
  for (const RedisReply& reply : *replies) {
    if (reply->type != REDIS_REPLY_ERROR) continue;
    const absl::string_view text = Text(*reply);
    const std::string message = absl::StrCat("redis ", endpoint_.ToString(), ": ", text);
    for (const absl::string_view refusal :
         {"WRONGPASS", "NOAUTH", "ERR AUTH", "ERR invalid password", "ERR DB index"}) {
      if (absl::StartsWith(text, refusal)) return absl::FailedPreconditionError(message);
    }
    // A user who may not give himself a name, or a server that loads its data and says so to what comes.
  }
  return absl::OkStatus();
}

absl::Status RedisConnection::Await(short events, absl::Time deadline) {
  while (true) {
    pollfd poll_for = {.fd = socket_, .events = events, .revents = 0};
    const int64_t left = absl::ToInt64Milliseconds(absl::Ceil(deadline - absl::Now(), absl::Milliseconds(1)));
    if (left <= 0) return Error("no answer in time");
    const int ready = poll(&poll_for, 1, static_cast<int>(std::min<int64_t>(left, 60'000)));
    if (ready > 0) return absl::OkStatus();
    if (ready < 0 && errno != EINTR) return Error(std::strerror(errno));
  }
}

absl::Status RedisConnection::SendRaw(absl::string_view bytes, absl::Time deadline) {
  while (!bytes.empty()) {
    const ssize_t sent = send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent > 0) {
      bytes.remove_prefix(static_cast<std::size_t>(sent));
    } else if (errno == EAGAIN) {
      if (absl::Status status = Await(POLLOUT, deadline); !status.ok()) return status;
    } else if (errno != EINTR) {
      return Error(std::strerror(errno));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<absl::string_view> RedisConnection::ReceiveRaw(absl::Time deadline) {
  while (true) {
    const ssize_t got = recv(socket_, buffer_.data(), buffer_.size(), 0);
    if (got > 0) return absl::string_view(buffer_.data(), static_cast<std::size_t>(got));
    if (got == 0) return Error("the connection was closed");
    if (errno == EAGAIN) {
      if (absl::Status status = Await(POLLIN, deadline); !status.ok()) return status;
    } else if (errno != EINTR) {
      return Error(std::strerror(errno));
    }
  }
}

absl::Status RedisConnection::Flush(absl::Time deadline) {
  char* data = nullptr;
  BIO* const out = SSL_get_wbio(tls_.get());
  const long size = BIO_get_mem_data(out, &data);
  absl::Status status = SendRaw({data, static_cast<std::size_t>(size)}, deadline);
  BIO_reset(out);
  return status;
}

absl::Status RedisConnection::Send(absl::string_view bytes, absl::Time deadline) {
  if (tls_ == nullptr) return SendRaw(bytes, deadline);
  while (!bytes.empty()) {
    const std::size_t piece = std::min<std::size_t>(bytes.size(), 1 << 20);
    const int written = SSL_write(tls_.get(), bytes.data(), static_cast<int>(piece));
    if (written <= 0) return Error(absl::StrCat("TLS: ", TlsError()));
    bytes.remove_prefix(static_cast<std::size_t>(written));
    if (absl::Status status = Flush(deadline); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::StatusOr<absl::string_view> RedisConnection::Receive(absl::Time deadline) {
  if (tls_ == nullptr) return ReceiveRaw(deadline);
  while (true) {
    const int got = SSL_read(tls_.get(), plain_.data(), static_cast<int>(plain_.size()));
    if (got > 0) return absl::string_view(plain_.data(), static_cast<std::size_t>(got));
    if (SSL_get_error(tls_.get(), got) != SSL_ERROR_WANT_READ) return Error(absl::StrCat("TLS: ", TlsError()));
    if (absl::Status status = Flush(deadline); !status.ok()) return status;
    absl::StatusOr<absl::string_view> bytes = ReceiveRaw(deadline);
    if (!bytes.ok()) return bytes;
    BIO_write(SSL_get_rbio(tls_.get()), bytes->data(), static_cast<int>(bytes->size()));
  }
}

absl::StatusOr<std::vector<RedisReply>> RedisConnection::Call(absl::Span<const RedisCommand> commands,
                                                              absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  std::string bytes;
  for (const RedisCommand& command : commands) AppendCommand(command, &bytes);
  if (absl::Status status = Send(bytes, deadline); !status.ok()) return status;
  std::vector<RedisReply> replies;
  while (replies.size() < commands.size()) {
    void* reply = nullptr;
    if (redisReaderGetReply(reader_.get(), &reply) != REDIS_OK) return Error(reader_->errstr);
    if (reply != nullptr) {
      replies.emplace_back(static_cast<redisReply*>(reply));
      continue;
    }
    absl::StatusOr<absl::string_view> received = Receive(deadline);
    if (!received.ok()) return received.status();
    redisReaderFeed(reader_.get(), received->data(), received->size());
  }
  return replies;
}

}  // namespace normd::store
