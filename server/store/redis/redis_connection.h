#ifndef NORMD_SERVER_STORE_REDIS_REDIS_CONNECTION_H_
#define NORMD_SERVER_STORE_REDIS_REDIS_CONNECTION_H_

#include <hiredis/hiredis.h>
#include <openssl/ssl.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "server/store/redis/redis_location.h"

namespace normd::store {

// A command with its arguments.
using RedisCommand = std::vector<std::string>;

struct FreeRedisReply {
  void operator()(redisReply* reply) const { freeReplyObject(reply); }
};
// Never null where a function returns one.
using RedisReply = std::unique_ptr<redisReply, FreeRedisReply>;

inline absl::string_view Text(const redisReply& reply) {
  return reply.str == nullptr ? absl::string_view() : absl::string_view(reply.str, reply.len);
}
inline absl::Span<redisReply* const> Elements(const redisReply& reply) {
  return reply.type == REDIS_REPLY_ARRAY ? absl::MakeConstSpan(reply.element, reply.elements)
                                         : absl::Span<redisReply* const>();
}

// One connection to one Redis server, over TLS if the location says so. hiredis writes and reads the protocol; the
// socket is ours, so that every wait has an end and TLS needs no more of hiredis than Debian has. Not thread-safe.
class RedisConnection {
 public:
  // `authenticate`: with the location's user, password and database; a sentinel has none of them. UNAVAILABLE: there is
  // no answer, or TLS does not trust it. FAILED_PRECONDITION: the password or a file of the location is wrong.
  static absl::StatusOr<std::unique_ptr<RedisConnection>> Open(const RedisEndpoint& endpoint,
                                                               const RedisLocation& location, bool authenticate);
  ~RedisConnection();
  RedisConnection(const RedisConnection&) = delete;
  RedisConnection& operator=(const RedisConnection&) = delete;

  // Sends all commands at once and waits for the reply of each; errors that Redis replies with are replies.
  // UNAVAILABLE: the connection is of no use any more, and what has been carried out is unknown.
  absl::StatusOr<std::vector<RedisReply>> Call(absl::Span<const RedisCommand> commands, absl::Duration timeout);

 private:
  struct FreeReader {
    void operator()(redisReader* reader) const { redisReaderFree(reader); }
  };
  struct FreeContext {
    void operator()(SSL_CTX* context) const { SSL_CTX_free(context); }
  };
  struct FreeSsl {
    void operator()(SSL* ssl) const { SSL_free(ssl); }
  };

  RedisConnection() = default;

  absl::Status Connect(absl::Time deadline);
  absl::Status StartTls(const RedisLocation& location, absl::Time deadline);
  absl::Status Login(const RedisLocation& location);
  absl::Status Send(absl::string_view bytes, absl::Time deadline);
  // Some bytes, at least one.
  absl::StatusOr<absl::string_view> Receive(absl::Time deadline);
  // The same below TLS.
  absl::Status SendRaw(absl::string_view bytes, absl::Time deadline);
  absl::StatusOr<absl::string_view> ReceiveRaw(absl::Time deadline);
  // Sends what OpenSSL has to say.
  absl::Status Flush(absl::Time deadline);
  absl::Status Await(short events, absl::Time deadline);
  absl::Status Error(absl::string_view what) const;

  RedisEndpoint endpoint_;
  int socket_ = -1;
  std::unique_ptr<redisReader, FreeReader> reader_;
  std::unique_ptr<SSL_CTX, FreeContext> tls_context_;
  std::unique_ptr<SSL, FreeSsl> tls_;
  std::vector<char> buffer_;
  std::vector<char> plain_;
};

}  // namespace normd::store

#endif  // NORMD_SERVER_STORE_REDIS_REDIS_CONNECTION_H_
