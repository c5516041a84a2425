#ifndef NORMD_SERVER_SERVICE_UNARY_CALL_H_
#define NORMD_SERVER_SERVICE_UNARY_CALL_H_

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <new>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "server/access/access_control.h"
#include "server/access/caller.h"
#include "server/access/role.h"
#include "server/registry/committer.h"
#include "server/service/call_access.h"

namespace normd::service {

// What is known about a call when it ends. Borrowed: good only inside OnCall.
struct CallRecord {
  // "TrainStep".
  absl::string_view method;
  // The layer that the request names; empty if the method takes none. Not validated.
  absl::string_view layer;
  // Of the request; empty if it has none. Not validated.
  absl::string_view request_id;
  const grpc::CallbackServerContext& context;
  // As they travel; no response: 0.
  int64_t request_bytes;
  int64_t response_bytes;
  const absl::Status& status;
  absl::Duration duration;
};

// What every call goes past: access control, logging, metrics. Thread-safe; must not block.
class CallObserver {
 public:
  // `access` may be null: everybody may do everything. It outlives this.
  explicit CallObserver(const access::AccessControl* access = nullptr) : access_(access) {}
  virtual ~CallObserver() = default;

  // Whoever makes a call.
  access::Caller CallerOf(const grpc::ServerContextBase& context) const { return service::CallerOf(context, access_); }
  const access::AccessControl* access() const { return access_; }

  // Comes right before the answer is sent.
  virtual void OnCall(const CallRecord& record) = 0;

  // A call begins, or is over.
  virtual void Began() { in_flight_.fetch_add(1, std::memory_order_relaxed); }
  virtual void Ended() { in_flight_.fetch_sub(1, std::memory_order_relaxed); }

  // Calls that have begun and not ended.
  int64_t calls_in_flight() const { return in_flight_.load(std::memory_order_relaxed); }

 private:
  const access::AccessControl* const access_;
  // On a cache line of its own, since every call writes to it.
  alignas(64) std::atomic<int64_t> in_flight_ = 0;
};

// Counts as a call in flight while it lives.
class CallInFlight {
 public:
  explicit CallInFlight(CallObserver* observer) : observer_(observer) { observer_->Began(); }
  ~CallInFlight() { observer_->Ended(); }
  CallInFlight(const CallInFlight&) = delete;
  CallInFlight& operator=(const CallInFlight&) = delete;

 private:
  CallObserver* const observer_;
};

// CANCELLED or DEADLINE_EXCEEDED, naming the method, once nobody waits for the answer of a call any more.
absl::Status CheckAlive(const grpc::CallbackServerContext& context, absl::string_view method);

// What `handler`, a function () -> absl::Status, returns, or a status for what it throws: the callback API has no place
// for exceptions.
template <typename Handler>
absl::Status WithoutExceptions(const Handler& handler) {
  try {
    return handler();
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("out of memory");
  } catch (const std::exception& e) {
    return absl::InternalError(e.what());
  }
}

// A unary call in progress: its deadline, and its one end. A cheap handle; context, layer and observer live until
// Finish. Thread-safe as long as Finish is the last thing that happens.
class UnaryCall {
 public:
  // The clock of the call starts here.
  UnaryCall(grpc::CallbackServerContext* context, absl::string_view method, int64_t request_bytes,
            CallObserver* observer);

  // The layer that the request names and its request_id, once they are known.
  void set_request(absl::string_view layer, absl::string_view request_id) {
    layer_ = layer;
    request_id_ = request_id;
  }

  absl::Status CheckAlive() const { return service::CheckAlive(*context_, method_); }

  // Whether whoever calls may call now, and has `role` for `layer`; empty: what the call touches is checked elsewhere.
  absl::Status CheckAccess(access::Role role, absl::string_view layer) const {
    if (observer_->access() == nullptr) return absl::OkStatus();
    const access::Caller caller = observer_->CallerOf(*context_);
    return layer.empty() ? TakeCall(caller) : CheckCall(caller, role, layer);
  }

  // Runs `handler`, a function () -> absl::Status that fills in the response, unless the call is already over, and
  // finishes with what it returned and the size that `response_bytes()` then has.
  template <typename Handler, typename ResponseBytes>
  void Run(const Handler& handler, const ResponseBytes& response_bytes) const {
    // Nothing waits to be stored, so nothing is made again.
    const auto once = [](registry::PendingCommitPtr*) { return absl::OkStatus(); };
    RunAndStore([&handler](registry::PendingCommitPtr*) { return handler(); }, once, response_bytes);
  }

  // The same for a `handler`, a function (registry::PendingCommitPtr* stored) -> absl::Status, that says what has to be
  // stored before the call is answered. `again`, the same once more, runs if another server was faster; `respond`, a
  // function () that completes the response and returns its size, when it is stored. Both run now or later on another
  // thread, and must hold what they need.
  template <typename Handler, typename Again, typename Respond>
  void RunAndStore(const Handler& handler, Again again, Respond respond) const {
    registry::PendingCommitPtr stored;
    absl::Status status = CheckAlive();
    if (status.ok()) status = WithoutExceptions([&] { return handler(&stored); });
    if (!status.ok()) return Finish(status);
    auto make_again = [call = *this, again = std::move(again)](registry::PendingCommitPtr* next) {
      absl::Status alive = call.CheckAlive();
      return alive.ok() ? WithoutExceptions([&] { return again(next); }) : alive;
    };
    registry::WhenStored(stored, std::move(make_again),
                         [call = *this, respond = std::move(respond)](absl::Status answer) {
                           int64_t response_bytes = 0;
                           if (answer.ok()) {
                             answer = WithoutExceptions([&] {
                               response_bytes = static_cast<int64_t>(respond());
                               return absl::OkStatus();
                             });
                           }
                           call.Finish(answer, response_bytes);
                         });
  }

  // Tells the observer and sends the answer. Once; what the call borrows is gone afterwards.
  void Finish(const absl::Status& status, int64_t response_bytes = 0) const;

  // What the handler of the callback API returns.
  grpc::ServerUnaryReactor* reactor() const { return reactor_; }

 private:
  grpc::CallbackServerContext* context_;
  grpc::ServerUnaryReactor* reactor_;
  absl::string_view method_;
  absl::string_view layer_;
  absl::string_view request_id_;
  int64_t request_bytes_;
  CallObserver* observer_;
  std::chrono::steady_clock::time_point start_;
};

// A call of a generated method: `handler`, a function () -> absl::Status, fills in the response. `layer` is the one
// that the request names, for which whoever calls must have the role that the method takes; empty: what the call
// touches the handler finds out, and checks.
template <typename Request, typename Response, typename Handler>
grpc::ServerUnaryReactor* HandleUnary(grpc::CallbackServerContext* context, absl::string_view method,
                                      absl::string_view layer, const Request* request, Response* response,
                                      CallObserver* observer, const Handler& handler) {
  UnaryCall call(context, method, static_cast<int64_t>(request->ByteSizeLong()), observer);
  absl::string_view request_id;
  if constexpr (requires { request->request_id(); }) request_id = request->request_id();
  call.set_request(layer, request_id);
  call.Run(
      [&]() -> absl::Status {
        absl::Status status = call.CheckAccess(RoleOf(method).value_or(access::Role::kAdmin), layer);
        return status.ok() ? handler() : status;
      },
      [&] { return response->ByteSizeLong(); });
  return call.reactor();
}

}  // namespace normd::service

#endif  // NORMD_SERVER_SERVICE_UNARY_CALL_H_
