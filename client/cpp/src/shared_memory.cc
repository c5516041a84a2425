#include "client/cpp/src/shared_memory.h"

#include <grpcpp/client_context.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <condition_variable>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cpp/src/handover.h"
#include "client/cpp/src/warning.h"

namespace normd::internal {
namespace {

using SteadyTime = std::chrono::steady_clock::time_point;

// Before another try where one failed.
constexpr absl::Duration kPause = absl::Seconds(1);
// Of the calls that register and unregister; the latter waits for the tensor calls that use the region.
constexpr std::chrono::seconds kRegisterTimeout{5};
constexpr std::chrono::seconds kUnregisterTimeout{60};

// Sizes from one power of two to the next, as few as make regions reusable.
std::size_t CapacityFor(std::size_t size) {
  const std::size_t step = std::max(std::bit_floor(std::max<std::size_t>(size, 1)) / 4, std::size_t{4096});
  return (size + step - 1) / step * step;
}

// Statuses that say that this server never will.
bool IsRefusal(grpc::StatusCode code) {
  return code == grpc::StatusCode::FAILED_PRECONDITION || code == grpc::StatusCode::UNIMPLEMENTED ||
         code == grpc::StatusCode::PERMISSION_DENIED || code == grpc::StatusCode::UNAUTHENTICATED ||
         code == grpc::StatusCode::INVALID_ARGUMENT;
}

}  // namespace

// What outlives the client: the regions that are lent.
struct SharedMemory::Pool : std::enable_shared_from_this<Pool> {
  struct Slot {
    std::unique_ptr<SharedRegion> region;
    std::string id;
    int64_t session = 0;
    bool retired = false;
    // Expired: it is kept for the next.
    std::weak_ptr<char> lent;
    // Of a retired one.
    std::shared_ptr<char> held;
  };
  using Slots = std::map<const char*, Slot>;

  // REQUIRES the mutex.
  std::shared_ptr<char> Lend(Slot* slot) {
    std::shared_ptr<char> memory(slot->region->data(), [pool = shared_from_this()](char* data) { pool->Return(data); });
    slot->lent = memory;
    kept.erase(std::remove(kept.begin(), kept.end(), slot->region->data()), kept.end());
    return memory;
  }

  void Return(char* data) {
    std::unique_ptr<SharedRegion> gone;
    const std::lock_guard<std::mutex> lock(mutex);
    const auto slot = slots.find(data);
    if (slot->second.retired || slot->second.session != session) {
      gone = Drop(slot);
    } else {
      kept.push_back(data);
    }
  }

  // REQUIRES the mutex.
  std::unique_ptr<SharedRegion> Drop(Slots::iterator slot) {
    bytes -= slot->second.region->size();
    std::unique_ptr<SharedRegion> region = std::move(slot->second.region);
    slots.erase(slot);
    return region;
  }

  std::mutex mutex;
  std::condition_variable changed;
  // By the address of their data.
  Slots slots;
  // Those that are not lent; the last one came back last.
  std::vector<char*> kept;
  // Of the regions, and of those that are being made.
  std::size_t bytes = 0;
  std::size_t budget = 0;
  // Counts the sessions; 0: none is open.
  int64_t session = 0;
  int64_t last_session = 0;
};

// A region on its way to the server.
struct SharedMemory::Registration {
  std::unique_ptr<SharedRegion> region;
  int64_t session = 0;
  std::string session_id;
  // Somebody waits; otherwise it goes to the pool.
  bool wanted = false;
  bool over = false;
  std::shared_ptr<char> memory;
};

struct SharedMemory::Rpc {
  grpc::ClientContext context;
  v1::RegisterRegionRequest register_request;
  v1::RegisterRegionResponse register_response;
  v1::UnregisterRegionRequest unregister_request;
  v1::UnregisterRegionResponse unregister_response;
};

// The stream that a session lasts as long as. Owns itself until its end.
class SharedMemory::Session : public grpc::ClientReadReactor<v1::OpenSessionResponse> {
 public:
  explicit Session(SharedMemory* owner) : owner_(owner) {}

  void Start() {
    owner_->stub_->async()->OpenSession(&context_, &request_, this);
    StartRead(&response_);
    handover::Give();
    StartCall();
  }

  void Cancel() { context_.TryCancel(); }

  void OnReadDone(bool ok) override {
    handover::Take();
    if (!ok) return;
    owner_->Opened(response_);
    handover::Give();
    StartRead(&response_);
  }

  void OnDone(const grpc::Status& status) override {
    handover::Take();
    SharedMemory* const owner = owner_;
    owner->Ended(status);
    // Before the owner may go, since this shares the channel: were that the last reference, gRPC's thread would have to
    // wait for its own end.
    delete this;
    owner->Gone();
  }

 private:
  SharedMemory* const owner_;
  grpc::ClientContext context_;
  v1::OpenSessionRequest request_;
  v1::OpenSessionResponse response_;
};

SharedMemory::SharedMemory(std::shared_ptr<grpc::Channel> channel, const ClientOptions& options,
                           std::shared_ptr<Runtime> runtime)
    : channel_(std::move(channel)),
      stub_(v1::SharedMemoryService::NewStub(channel_)),
      runtime_(std::move(runtime)),
      on_warning_(options.on_warning ? options.on_warning : PrintWarning),
      min_bytes_(static_cast<std::size_t>(std::max<int64_t>(options.shared_memory_min_bytes, 1))),
      pool_(std::make_shared<Pool>()) {
  pool_->budget = static_cast<std::size_t>(std::max<int64_t>(options.max_shared_memory_bytes, 0));
}

SharedMemory::~SharedMemory() {
  std::unique_lock<std::mutex> lock(pool_->mutex);
  closing_ = true;
  if (session_ != nullptr) session_->Cancel();
  for (const auto& [rpc, owned] : rpcs_) rpc->context.TryCancel();
  pool_->changed.wait(lock, [this] { return streams_ == 0 && rpcs_.empty(); });
}

bool SharedMemory::EnsureSession(std::unique_lock<std::mutex>* lock, SteadyTime until) {
  if (state_ == State::kNone && !closing_ && runtime_->Now() >= next_open_) {
    state_ = State::kOpening;
    session_ = new Session(this);
    ++streams_;
    // Without the lock, which what it calls back takes; nobody else touches it while it is opening.
    Session* const session = session_;
    lock->unlock();
    session->Start();
    lock->lock();
  }
  if (state_ == State::kOpening && !opens_slowly_ && until != SteadyTime::min()) {
    opens_slowly_ = !pool_->changed.wait_until(*lock, until, [this] { return state_ != State::kOpening; });
  }
  return state_ == State::kOpen;
}

void SharedMemory::Opened(const v1::OpenSessionResponse& response) {
  const std::lock_guard<std::mutex> lock(pool_->mutex);
  if (state_ != State::kOpening) return;
  state_ = State::kOpen;
  opens_slowly_ = false;
  session_id_ = response.session();
  key_ = response.key().substr(0, SharedRegion::kDataOffset);
  pool_->session = ++pool_->last_session;
  pool_->changed.notify_all();
}

void SharedMemory::Ended(const grpc::Status& status) {
  std::vector<std::unique_ptr<SharedRegion>> gone;
  std::vector<std::shared_ptr<char>> held;
  const bool refused = [&] {
    const std::lock_guard<std::mutex> lock(pool_->mutex);
    const bool refusal = state_ == State::kOpening && !closing_ && IsRefusal(status.error_code());
    if (state_ == State::kOpening) next_open_ = runtime_->Now() + kPause;
    if (state_ != State::kRefused) state_ = State::kNone;
    session_ = nullptr;
    pool_->session = 0;
    for (char* data : std::exchange(pool_->kept, {})) gone.push_back(pool_->Drop(pool_->slots.find(data)));
    for (auto& [data, slot] : pool_->slots) held.push_back(std::move(slot.held));
    pool_->changed.notify_all();
    return refusal;
  }();
  held.clear();
  if (refused) Refuse(status);
}

void SharedMemory::Gone() {
  const std::lock_guard<std::mutex> lock(pool_->mutex);
  --streams_;
  pool_->changed.notify_all();
}

void SharedMemory::Refuse(const grpc::Status& status) {
  {
    const std::lock_guard<std::mutex> lock(pool_->mutex);
    if (std::exchange(state_, State::kRefused) == State::kRefused) return;
    if (session_ != nullptr) session_->Cancel();
    pool_->changed.notify_all();
  }
  on_warning_(absl::StrCat("the server takes no shared memory, tensors go through the socket: ",
                           status.error_message().empty() ? "no reason given" : status.error_message()));
}

std::shared_ptr<char> SharedMemory::Acquire(std::size_t size, absl::Duration wait) {
  const SteadyTime until = wait <= absl::ZeroDuration()
                               ? SteadyTime::min()
                               : std::chrono::steady_clock::now() + absl::ToChronoMilliseconds(wait);
  const std::size_t capacity = CapacityFor(size);
  const std::size_t whole = capacity + SharedRegion::kDataOffset;
  std::vector<std::pair<std::string, std::unique_ptr<SharedRegion>>> gone;
  const auto registration = std::make_shared<Registration>();
  std::string key;
  {
    std::unique_lock<std::mutex> lock(pool_->mutex);
    if (!EnsureSession(&lock, until)) return nullptr;
    for (auto kept = pool_->kept.rbegin(); kept != pool_->kept.rend(); ++kept) {
      Pool::Slot& slot = pool_->slots.at(*kept);
      if (slot.region->capacity() == capacity) return pool_->Lend(&slot);
    }
    if (runtime_->Now() < next_register_ || whole > pool_->budget) return nullptr;
    // Room comes from what is kept, the longest unused first.
    while (pool_->bytes > pool_->budget - whole && !pool_->kept.empty()) {
      const auto slot = pool_->slots.find(pool_->kept.front());
      pool_->kept.erase(pool_->kept.begin());
      std::string id = slot->second.id;
      gone.emplace_back(std::move(id), pool_->Drop(slot));
    }
    if (pool_->bytes > pool_->budget - whole) return nullptr;
    pool_->bytes += whole;
    registration->session = pool_->session;
    registration->session_id = session_id_;
    key = key_;
    registration->wanted = until != SteadyTime::min();
  }
  for (const auto& [id, region] : gone) Unregister(id, nullptr);
  gone.clear();

  absl::StatusOr<std::unique_ptr<SharedRegion>> region = SharedRegion::Create(capacity, key);
  if (!region.ok()) {
    const std::lock_guard<std::mutex> lock(pool_->mutex);
    pool_->bytes -= whole;
    next_register_ = runtime_->Now() + kPause;
    return nullptr;
  }
  registration->region = *std::move(region);
  Register(registration);
  if (until == SteadyTime::min()) return nullptr;
  std::unique_lock<std::mutex> lock(pool_->mutex);
  pool_->changed.wait_until(lock, until, [&] { return registration->over; });
  registration->wanted = false;
  return std::move(registration->memory);
}

void SharedMemory::Register(const std::shared_ptr<Registration>& registration) {
  auto owned = std::make_unique<Rpc>();
  Rpc* const rpc = owned.get();
  rpc->context.set_deadline(std::chrono::system_clock::now() + kRegisterTimeout);
  rpc->register_request.set_session(registration->session_id);
  rpc->register_request.set_name(registration->region->name());
  rpc->register_request.set_size_bytes(static_cast<int64_t>(registration->region->size()));
  {
    const std::lock_guard<std::mutex> lock(pool_->mutex);
    rpcs_.emplace(rpc, std::move(owned));
  }
  handover::Give();
  stub_->async()->RegisterRegion(&rpc->context, &rpc->register_request, &rpc->register_response,
                                 [this, rpc, registration](const grpc::Status& status) {
                                   handover::Take();
                                   const std::string region = rpc->register_response.region();
                                   Registered(registration, status, region);
                                   const std::lock_guard<std::mutex> lock(pool_->mutex);
                                   rpcs_.erase(rpc);
                                   pool_->changed.notify_all();
                                 });
}

void SharedMemory::Registered(const std::shared_ptr<Registration>& registration, const grpc::Status& status,
                              const std::string& region) {
  // Whatever became of it, its name has served.
  registration->region->Unlink();
  bool refused = false;
  std::unique_ptr<SharedRegion> gone;
  {
    const std::lock_guard<std::mutex> lock(pool_->mutex);
    registration->over = true;
    if (status.ok() && registration->session == pool_->session) {
      not_found_in_ = 0;
      char* const data = registration->region->data();
      Pool::Slot& slot = pool_->slots[data];
      slot.region = std::move(registration->region);
      slot.id = region;
      slot.session = registration->session;
      if (registration->wanted) {
        registration->memory = pool_->Lend(&slot);
      } else {
        pool_->kept.push_back(data);
      }
    } else {
      pool_->bytes -= registration->region->size();
      gone = std::move(registration->region);
      // What became of an older session says nothing about this one.
      const bool current = registration->session == pool_->session;
      if (current && status.error_code() == grpc::StatusCode::NOT_FOUND) {
        // The session has ended there and nobody told us, or the object is not there: another host. A second session
        // tells which.
        refused = not_found_in_ != 0 && not_found_in_ != registration->session;
        not_found_in_ = registration->session;
        if (session_ != nullptr) session_->Cancel();
      } else if (current) {
        refused = IsRefusal(status.error_code());
        next_register_ = runtime_->Now() + kPause;
      }
    }
    pool_->changed.notify_all();
  }
  if (refused) Refuse(status);
}

void SharedMemory::Unregister(const std::string& region, const char* data) {
  auto owned = std::make_unique<Rpc>();
  Rpc* const rpc = owned.get();
  rpc->context.set_deadline(std::chrono::system_clock::now() + kUnregisterTimeout);
  rpc->unregister_request.set_region(region);
  {
    const std::lock_guard<std::mutex> lock(pool_->mutex);
    rpc->unregister_request.set_session(session_id_);
    rpcs_.emplace(rpc, std::move(owned));
  }
  handover::Give();
  stub_->async()->UnregisterRegion(&rpc->context, &rpc->unregister_request, &rpc->unregister_response,
                                   [this, rpc, data](const grpc::Status& status) {
                                     handover::Take();
                                     std::shared_ptr<char> held;
                                     {
                                       const std::lock_guard<std::mutex> lock(pool_->mutex);
                                       const auto slot = pool_->slots.find(data);
                                       const bool over =
                                           status.ok() || status.error_code() == grpc::StatusCode::NOT_FOUND;
                                       if (over && slot != pool_->slots.end()) held = std::move(slot->second.held);
                                     }
                                     held.reset();
                                     const std::lock_guard<std::mutex> lock(pool_->mutex);
                                     rpcs_.erase(rpc);
                                     pool_->changed.notify_all();
                                   });
}

std::optional<SharedMemory::Place> SharedMemory::Find(absl::Span<const char> bytes) {
  Place place;
  const std::lock_guard<std::mutex> lock(pool_->mutex);
  auto slot = pool_->slots.upper_bound(bytes.data());
  if (slot == pool_->slots.begin()) return std::nullopt;
  --slot;
  const std::size_t offset = static_cast<std::size_t>(bytes.data() - slot->first);
  const std::size_t capacity = slot->second.region->capacity();
  if (offset > capacity || bytes.size() > capacity - offset) return std::nullopt;
  if (slot->second.retired || slot->second.session != pool_->session) return std::nullopt;
  place.memory = slot->second.lent.lock();
  if (place.memory == nullptr) return std::nullopt;
  place.region = slot->second.id;
  place.offset = static_cast<int64_t>(SharedRegion::kDataOffset + offset);
  place.session = slot->second.session;
  return place;
}

bool SharedMemory::IsCurrent(const Place& place) const {
  const std::lock_guard<std::mutex> lock(pool_->mutex);
  return place.session == pool_->session;
}

bool SharedMemory::IsIntact(const Place& place) const {
  const std::lock_guard<std::mutex> lock(pool_->mutex);
  const auto slot = pool_->slots.find(place.memory.get());
  return slot != pool_->slots.end() && slot->second.region->Intact();
}

void SharedMemory::Retire(const Place& place) {
  std::string region;
  {
    const std::lock_guard<std::mutex> lock(pool_->mutex);
    const auto slot = pool_->slots.find(place.memory.get());
    if (slot == pool_->slots.end() || slot->second.retired) return;
    slot->second.retired = true;
    if (slot->second.session != pool_->session) return;
    slot->second.held = place.memory;
    region = slot->second.id;
  }
  Unregister(region, place.memory.get());
}

}  // namespace normd::internal
