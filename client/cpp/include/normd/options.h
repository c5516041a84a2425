#ifndef NORMD_OPTIONS_H_
#define NORMD_OPTIONS_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace normd {
inline namespace abi_0_1 {

// When a call failed with UNAVAILABLE it is tried again, after a pause that grows. A mutation keeps its request_id, so
// the server folds nothing in twice. A server that has no memory or no place in its queue for a call answers with
// RESOURCE_EXHAUSTED and says how long to wait (google.rpc.RetryInfo): such a call is tried again after that time and
// up to half of it more, at random. RESOURCE_EXHAUSTED without it (a message too large, say) is final.
struct RetryPolicy {
  // Attempts in all, whatever the reasons; 1 means no retry.
  int max_attempts = 4;
  // Pause before the second attempt; each further one is `multiplier` times longer, up to `max_backoff`. The real pause
  // is a random part of that, between one half and the whole.
  absl::Duration initial_backoff = absl::Milliseconds(50);
  absl::Duration max_backoff = absl::Seconds(2);  // Longest pause.
  double multiplier = 2.0;                        // From one pause to the next; below 1 counts as 1.
};

// How tensors travel.
enum class Transport {
  // In the messages.
  kGrpc,
  // Between client and server on one host: in POSIX shared memory, of which the messages say only where. What is small,
  // or finds no room, still travels in the messages; so does everything, after one warning, when the server has no
  // shared memory for this client (it is off, or older, or on another host, or may not read it).
  kSharedMemory,
};

// A connection with TLS, as to a server with --tls-cert. The files are in PEM and read when the client is made; one
// that cannot be used, or does not fit the others, makes each call fail with FAILED_PRECONDITION and the reason.
struct TlsOptions {
  // Of the authorities that may vouch for the server. Default: those that the system trusts.
  std::string root_certificates_file = {};
  // This client's certificate, followed by those that lead to its authority, and its key, which has no password: for a
  // server that wants to see one (--tls-client-ca). Both or neither.
  std::string certificate_chain_file = {};
  std::string private_key_file = {};  // See certificate_chain_file.
  // The name that the server's certificate must be for. Default: the target's host.
  std::string server_name = {};
};

// Settings of a Client.
struct ClientOptions {
  // For every call that sets none of its own; counts all attempts and pauses together.
  absl::Duration timeout = absl::Seconds(30);
  RetryPolicy retry;  // When and how often a call is tried again.
  // Largest message to receive. The server's own limit holds for what is sent.
  int64_t max_message_bytes = int64_t{1} << 30;
  // Most memory for tensors that are being sent, results that have not been let go of, and what is kept warm for the
  // next. A call whose tensor has to be copied and finds no room fails with RESOURCE_EXHAUSTED; results find room
  // beside it.
  int64_t max_buffer_bytes = int64_t{16} << 30;

  // Encrypts the connection, and checks who the server is. Not for Unix sockets, where it is INVALID_ARGUMENT. Default:
  // no TLS.
  std::optional<TlsOptions> tls = std::nullopt;
  // Says to the server who calls: every call carries it, streams and shared memory included. What the server does not
  // know is UNAUTHENTICATED, what it may not do PERMISSION_DENIED; neither is tried again. Default: no token.
  std::string token = {};
  // A file with the token instead; what space follows it does not count. It is read when the client is made, where one
  // that cannot be used makes each call fail with FAILED_PRECONDITION, and again for each call and stream: a new token
  // needs no new client. While it cannot be read later on, calls have the last token, after a warning.
  std::string token_file = {};
  // Sends the token to a server that is neither on loopback nor on a Unix socket without TLS, too, where whoever sees
  // the packets can read it. Otherwise each call fails with INVALID_ARGUMENT there.
  bool allow_token_without_tls = false;

  Transport transport = Transport::kGrpc;  // How tensors travel.
  // Tensors with fewer bytes travel in the messages, where they are as fast.
  int64_t shared_memory_min_bytes = 64 << 10;
  // Most shared memory to hold; the server has a limit of its own.
  int64_t max_shared_memory_bytes = int64_t{4} << 30;
  // Gets what is worth knowing but ends no call, on any thread; must not block or call the client. Default: prints a
  // line to stderr.
  std::function<void(absl::string_view)> on_warning;
};

// Settings of one call; they win over ClientOptions.
struct CallOptions {
  // Of all attempts and pauses together; DEADLINE_EXCEEDED when it has passed. Default: ClientOptions::timeout.
  std::optional<absl::Duration> timeout = std::nullopt;
  // Of a mutation, at most 128 bytes. Default: a fresh random one. Give your own to make a call idempotent across
  // restarts of the caller.
  std::string request_id = {};
  // The trace that the call belongs to, as W3C's Trace Context writes it:
  // "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01". The server's log lines of the call then name trace and
  // span. Goes with every attempt. One that is malformed is ignored. Calls on a StepStream have none.
  std::string traceparent = {};
};

}  // namespace abi_0_1
}  // namespace normd

#endif  // NORMD_OPTIONS_H_
