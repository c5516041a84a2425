#include "server/shm/region_registry.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "server/shm/secret.h"

namespace normd::shm {
namespace {

absl::Status NoSession() { return absl::NotFoundError("no such shared-memory session, or no longer"); }
absl::Status NoRegion() { return absl::NotFoundError("no such shared-memory region, or no longer"); }

}  // namespace

absl::StatusOr<bool> SameRange(const RegionUse& a, const RegionUse& b) {
  if (!a.region_->SameObject(*b.region_)) return false;
  // Neither sum overflows: both ranges lie in a region.
  if (a.offset_ + a.size_ <= b.offset_ || b.offset_ + b.size_ <= a.offset_) return false;
  if (a.offset_ == b.offset_ && a.size_ == b.size_) return true;
  return absl::InvalidArgumentError(absl::StrCat("shared memory '", a.region_->name(), "': ", a.size_,
                                                 " bytes at offset ", a.offset_, " and ", b.size_, " at offset ",
                                                 b.offset_, " overlap; want the same range or different bytes"));
}

// A part of the budget. Given back at the end.
class RegionRegistry::Reservation {
 public:
  Reservation(std::shared_ptr<Budget> budget, int64_t bytes) : budget_(std::move(budget)), bytes_(bytes) {
    budget_->bytes += bytes_;
    ++budget_->regions;
  }
  ~Reservation() {
    budget_->bytes -= bytes_;
    --budget_->regions;
  }
  Reservation(const Reservation&) = delete;
  Reservation& operator=(const Reservation&) = delete;

 private:
  const std::shared_ptr<Budget> budget_;
  const int64_t bytes_;
};

struct RegionRegistry::Mapped {
  // Given back when the region is unmapped.
  std::unique_ptr<Reservation> reservation;
  std::unique_ptr<Region> region;
};

RegionRegistry::RegionRegistry(const RegionRegistryOptions& options)
    : options_(options), budget_(std::make_shared<Budget>()) {}

RegionRegistry::~RegionRegistry() = default;

absl::StatusOr<RegionRegistry::Session> RegionRegistry::OpenSession(Proof proof) {
  Session session = {.id = NewSecret(), .key = std::nullopt};
  if (proof == Proof::kKey) session.key = NewSecret();
  const base::MutexLock lock(&mutex_);
  if (sessions_.size() >= static_cast<std::size_t>(options_.max_sessions)) {
    return absl::ResourceExhaustedError(
        absl::StrCat("there are ", options_.max_sessions, " shared-memory sessions, which is the limit"));
  }
  sessions_[session.id].key = session.key;
  return session;
}

void RegionRegistry::EndSession(absl::string_view session) {
  SessionEntry ended;  // Unmapped after the lock is gone: that takes its time.
  const base::MutexLock lock(&mutex_);
  const auto found = sessions_.find(session);
  if (found == sessions_.end()) return;
  ended = std::move(found->second);
  sessions_.erase(found);
  for (const auto& [id, region] : ended.regions) regions_.erase(id);
}

absl::StatusOr<std::string> RegionRegistry::Register(absl::string_view session, const std::string& name,
                                                     int64_t size_bytes) {
  if (absl::Status status = Region::CheckName(name); !status.ok()) return status;
  if (size_bytes < kMinRegionBytes) {
    return absl::InvalidArgumentError(absl::StrCat("size_bytes is ", size_bytes, ", want at least ", kMinRegionBytes));
  }
  std::optional<std::string> key;
  std::unique_ptr<Reservation> reservation;
  {
    const base::MutexLock lock(&mutex_);
    const auto found = sessions_.find(session);
    if (found == sessions_.end()) return NoSession();
    key = found->second.key;
    // Reserved under the lock, so that two do not share the last bytes. Others may give back in the meantime.
    const int64_t bytes_now = mapped_bytes();
    if (size_bytes > options_.max_bytes - bytes_now) {
      return absl::ResourceExhaustedError(absl::StrCat("shared memory: ", size_bytes, " bytes do not fit, ", bytes_now,
                                                       " of ", options_.max_bytes, " are mapped"));
    }
    if (num_regions() >= options_.max_regions) {
      return absl::ResourceExhaustedError(
          absl::StrCat("there are ", options_.max_regions, " shared-memory regions, which is the limit"));
    }
    reservation = std::make_unique<Reservation>(budget_, size_bytes);
  }

  absl::StatusOr<std::unique_ptr<Region>> opened = Region::Open(name, size_bytes, key, options_.self);
  if (!opened.ok()) return opened.status();
  const auto mapped = std::make_shared<Mapped>(Mapped{std::move(reservation), *std::move(opened)});
  const RegionPtr region(mapped, mapped->region.get());

  const base::MutexLock lock(&mutex_);
  const auto found = sessions_.find(session);
  if (found == sessions_.end()) return NoSession();
  if (found->second.regions.size() >= static_cast<std::size_t>(options_.max_regions_per_session)) {
    return absl::ResourceExhaustedError(absl::StrCat("the session has ", options_.max_regions_per_session,
                                                     " shared-memory regions, which is the limit"));
  }
  std::string id = NewSecret();
  regions_[id] = region;
  found->second.regions.emplace_back(id, region);
  return id;
}

absl::Status RegionRegistry::Unregister(absl::string_view session, absl::string_view region) {
  RegionPtr removed;  // Unmapped after the lock is gone.
  const base::MutexLock lock(&mutex_);
  const auto found = sessions_.find(session);
  if (found == sessions_.end()) return NoSession();
  auto& regions = found->second.regions;
  const auto it = std::find_if(regions.begin(), regions.end(), [&](const auto& r) { return r.first == region; });
  if (it == regions.end()) return NoRegion();
  removed = std::move(it->second);
  regions.erase(it);
  regions_.erase(region);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<RegionRegistry::RegionInfo>> RegionRegistry::List(absl::string_view session) const {
  std::vector<RegionInfo> infos;
  const base::ReaderMutexLock lock(&mutex_);
  const auto found = sessions_.find(session);
  if (found == sessions_.end()) return NoSession();
  for (const auto& [id, region] : found->second.regions) {
    infos.push_back(
        {.id = id, .name = region->name(), .size_bytes = region->size_bytes(), .lost = !region->CheckNotLost().ok()});
  }
  return infos;
}

int64_t RegionRegistry::num_sessions() const {
  const base::ReaderMutexLock lock(&mutex_);
  return static_cast<int64_t>(sessions_.size());
}

absl::StatusOr<RegionUse> RegionRegistry::Use(absl::string_view region, int64_t offset, int64_t bytes,
                                              int64_t alignment) const {
  RegionPtr found;
  {
    const base::ReaderMutexLock lock(&mutex_);
    const auto it = regions_.find(region);
    if (it == regions_.end()) return NoRegion();
    found = it->second;
  }
  const absl::StatusOr<char*> data = found->Resolve(offset, bytes, alignment);
  if (!data.ok()) return data.status();
  return RegionUse(std::move(found), *data, offset, bytes);
}

}  // namespace normd::shm
