#ifndef NORMD_SERVER_REGISTRY_WATCH_HUB_H_
#define NORMD_SERVER_REGISTRY_WATCH_HUB_H_

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "server/base/mutex.h"

namespace normd::registry {

// Tells those who watch which layers have changed, on a thread of its own, so that whoever changes a layer pays for one
// entry in a list, and for nothing while nobody watches. A layer that changes often meanwhile is named once.
// Thread-safe.
class WatchHub {
 public:
  using Clock = std::chrono::steady_clock;

  class Watcher {
   public:
    virtual ~Watcher() = default;
    // `changed`: names of layers that have come, changed or gone since the last call; not all need concern this
    // watcher. Returns when it wants to be called again though nothing changes; time_point::max(): never. On the hub's
    // thread; must not block, and must not call Add or Remove.
    virtual Clock::time_point Wake(absl::Span<const std::string> changed, Clock::time_point now) = 0;
  };

  WatchHub();
  // REQUIRES: nobody watches any more.
  ~WatchHub();
  WatchHub(const WatchHub&) = delete;
  WatchHub& operator=(const WatchHub&) = delete;

  // A layer has come, changed or gone, and readers see it.
  void Changed(absl::string_view name);

  // Every change that readers see after Add is told.
  void Add(Watcher* watcher);
  // Waits for a Wake that is under way.
  void Remove(Watcher* watcher);
  // Calls all soon: one may want to be called at another time.
  void Poke();

 private:
  void Run() ABSL_NO_THREAD_SAFETY_ANALYSIS;

  std::atomic<bool> watched_ = false;
  // Held while watchers are called; taken before mutex_.
  base::Mutex watchers_mutex_;
  absl::flat_hash_set<Watcher*> watchers_ ABSL_GUARDED_BY(watchers_mutex_);
  base::Mutex mutex_;
  std::condition_variable wake_;
  absl::flat_hash_set<std::string> changed_ ABSL_GUARDED_BY(mutex_);
  bool poked_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  // Last: it runs as soon as it is made.
  std::thread thread_;
};

}  // namespace normd::registry

#endif  // NORMD_SERVER_REGISTRY_WATCH_HUB_H_
