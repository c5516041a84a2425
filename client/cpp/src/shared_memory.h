#ifndef NORMD_CLIENT_CPP_SRC_SHARED_MEMORY_H_
#define NORMD_CLIENT_CPP_SRC_SHARED_MEMORY_H_

#include <grpcpp/channel.h>
#include <grpcpp/support/status.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "client/cpp/src/runtime.h"
#include "client/cpp/src/shared_region.h"
#include "normd/options.h"
#include "normd/v1/shared_memory_service.grpc.pb.h"

namespace normd::internal {

// The client's end of SharedMemoryService: a session with the server, and a pool of regions that are registered in it,
// each lent to one tensor at a time. Thread-safe.
//
// A session:  none -> opening -> open -> none, when its stream breaks; the next Acquire opens another.
//                     opening -> refused, for good, with one warning: the server has no shared memory for this client.
//
// A region belongs to the session that it was registered in. Its name is gone since then, so a later session cannot
// have it: memory that is lent when a session ends stays good, but is ordinary memory from there on.
//
// Who may still write? A call that the server answered is over. One that ended without an answer (a deadline, a broken
// connection) may go on in the server, so its regions are retired: never lent again, and kept from being written to by
// this process (see Retire) until the server says that no call uses them, or the session is over.
class SharedMemory {
 public:
  SharedMemory(std::shared_ptr<grpc::Channel> channel, const ClientOptions& options, std::shared_ptr<Runtime> runtime);
  // Ends the session. Lent memory stays good. REQUIRES: no call of this is under way.
  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  // Whether tensors of that many bytes go through shared memory.
  bool Wants(std::size_t size) const { return size >= min_bytes_; }

  // Memory in a registered region, 64-byte aligned; goes back to the pool with its last share, also after this is gone.
  // Waits up to `wait` where the session or the region must be made first; what is not ready by then will be for a
  // later call. Null: not now (the session is not open, the pool or the server is full) or never (refused).
  std::shared_ptr<char> Acquire(std::size_t size, absl::Duration wait);

  // Memory that Acquire lent, as the server knows it.
  struct Place {
    std::string region;
    int64_t offset = 0;
    // A share of it.
    std::shared_ptr<char> memory;
    // Which session it belongs to.
    int64_t session = 0;

    char* data() const { return memory.get() + (offset - static_cast<int64_t>(SharedRegion::kDataOffset)); }
  };
  // Nothing: the bytes lie in no lent region of the present session.
  std::optional<Place> Find(absl::Span<const char> bytes);
  // Whether the place can still be used: its session goes on.
  bool IsCurrent(const Place& place) const;
  // Whether the memory can be read: the object behind it was not cut short.
  bool IsIntact(const Place& place) const;

  // Says that the server may still be at this place: see above. It is unregistered, and holds a share of its own memory
  // until that is done, so that a Tensor in it takes other memory before it is written to.
  void Retire(const Place& place);

 private:
  struct Pool;
  struct Registration;
  class Session;
  enum class State { kNone, kOpening, kOpen, kRefused };

  bool EnsureSession(std::unique_lock<std::mutex>* lock, std::chrono::steady_clock::time_point until);
  void Opened(const v1::OpenSessionResponse& response);
  // The stream has ended; later, what it was is gone.
  void Ended(const grpc::Status& status);
  void Gone();
  void Register(const std::shared_ptr<Registration>& registration);
  void Registered(const std::shared_ptr<Registration>& registration, const grpc::Status& status,
                  const std::string& region);
  void Unregister(const std::string& region, const char* data);
  void Refuse(const grpc::Status& status);

  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<v1::SharedMemoryService::Stub> stub_;
  const std::shared_ptr<Runtime> runtime_;
  const std::function<void(absl::string_view)> on_warning_;
  const std::size_t min_bytes_;
  // Shared with the memory that is lent. Its mutex guards what follows.
  const std::shared_ptr<Pool> pool_;

  State state_ = State::kNone;
  bool closing_ = false;
  // Opening has been waited for in vain: nobody waits again.
  bool opens_slowly_ = false;
  // Of the present session.
  Session* session_ = nullptr;
  std::string session_id_;
  std::string key_;
  // Sessions that are not Gone.
  int streams_ = 0;
  // The latest session in which the server did not find an object; 0 once it found one.
  int64_t not_found_in_ = 0;
  // Not before, by the runtime's clock.
  absl::Duration next_open_ = -absl::InfiniteDuration();
  absl::Duration next_register_ = -absl::InfiniteDuration();
  // Calls that are under way, to be cancelled in the end.
  struct Rpc;
  std::map<Rpc*, std::unique_ptr<Rpc>> rpcs_;
};

}  // namespace normd::internal

#endif  // NORMD_CLIENT_CPP_SRC_SHARED_MEMORY_H_
