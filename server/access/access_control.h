#ifndef NORMD_SERVER_ACCESS_ACCESS_CONTROL_H_
#define NORMD_SERVER_ACCESS_ACCESS_CONTROL_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/access/access_list.h"
#include "server/base/clock.h"
#include "server/base/mutex.h"
#include "server/base/watched_files.h"

namespace normd::access {

struct AccessOptions {
  // An AccessList; empty: everybody may do everything.
  std::string file;
  // Most calls a second of each identity that has no rate of its own, or of everybody together if there are none; 0: as
  // many as they like.
  double calls_per_second = 0;
};

// Who may do what, as the access file says now: it is read again when it has changed, and a file that cannot be read
// or is wrong changes nothing. Thread-safe.
class AccessControl {
 public:
  // Is told when the file was read again: OK, or why the one before it stays in force.
  using OnReload = absl::AnyInvocable<void(const absl::Status&)>;

  // `clock` outlives this. INVALID_ARGUMENT, NOT_FOUND or another status names the file.
  static absl::StatusOr<std::unique_ptr<AccessControl>> Open(const AccessOptions& options, const base::Clock& clock,
                                                             OnReload on_reload);

  // Whether callers have to show who they are.
  bool identifies() const { return !options_.file.empty(); }
  // Whoever calls, if nobody has to show who he is.
  const std::shared_ptr<const Identity>& everybody() const { return everybody_; }
  // The list as it is now. REQUIRES: identifies().
  std::shared_ptr<const AccessList> list() const;

  // Calls that were turned away because of who made them.
  int64_t refused() const { return refused_.load(std::memory_order_relaxed); }
  void CountRefused() const { refused_.fetch_add(1, std::memory_order_relaxed); }

 private:
  AccessControl(AccessOptions options, const base::Clock& clock, OnReload on_reload);
  absl::StatusOr<std::shared_ptr<const AccessList>> Read() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(reload_mutex_);

  const AccessOptions options_;
  const base::Clock& clock_;
  std::shared_ptr<const Identity> everybody_;
  mutable base::WatchedFiles files_;
  mutable std::atomic<int64_t> refused_ = 0;
  // Held over a whole reload; taken before list_mutex_.
  mutable base::Mutex reload_mutex_;
  mutable OnReload on_reload_ ABSL_GUARDED_BY(reload_mutex_);
  // By the identity's name: who has used up his calls does not get them back by a reload.
  mutable absl::flat_hash_map<std::string, std::shared_ptr<RateLimiter>> limiters_ ABSL_GUARDED_BY(reload_mutex_);
  // Held for the copy of a pointer only.
  mutable base::Mutex list_mutex_;
  mutable std::shared_ptr<const AccessList> list_ ABSL_GUARDED_BY(list_mutex_);
};

}  // namespace normd::access

#endif  // NORMD_SERVER_ACCESS_ACCESS_CONTROL_H_
