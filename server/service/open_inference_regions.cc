#include "server/service/open_inference_regions.h"

#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/base/quoted.h"

namespace normd::service {
namespace {

// Of a name or an object's.
constexpr std::size_t kMaxNameBytes = 255;

std::string Described(absl::string_view name) { return absl::StrCat("shared-memory region ", base::Quoted(name)); }

absl::Status IsOff() {
  return absl::FailedPreconditionError(
      "shared memory by name is off; start the server with --shared-memory and --open-inference-shared-memory");
}

absl::Status NoRegion(absl::string_view name) {
  return absl::NotFoundError(absl::StrCat(Described(name), " is not registered"));
}

}  // namespace

absl::StatusOr<std::string> OpenInferenceRegions::Session() {
  if (regions_ == nullptr) return IsOff();
  if (session_.empty()) {
    absl::StatusOr<shm::RegionRegistry::Session> session = regions_->OpenSession(shm::RegionRegistry::Proof::kNone);
    if (!session.ok()) return session.status();
    session_ = session->id;
  }
  return session_;
}

absl::Status OpenInferenceRegions::Register(const ::inference::SystemSharedMemoryRegisterRequest& request) {
  const base::MutexLock lock(&mutex_);
  absl::StatusOr<std::string> session = Session();
  if (!session.ok()) return session.status();
  if (request.name().empty() || request.name().size() > kMaxNameBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("the region's name has ", request.name().size(), " bytes, want 1 to ", kMaxNameBytes));
  }
  if (entries_.contains(request.name())) {
    return absl::AlreadyExistsError(absl::StrCat(Described(request.name()), " is registered already"));
  }
  // Neither is negative as a signed number, nor is their sum.
  constexpr uint64_t kMost = std::numeric_limits<int64_t>::max() / 2;
  if (request.offset() > kMost || request.byte_size() > kMost) {
    return absl::InvalidArgumentError(absl::StrCat(Described(request.name()), ": offset is ", request.offset(),
                                                   " and byte_size ", request.byte_size(), ", want at most ", kMost));
  }
  // The object from its start.
  absl::StatusOr<std::string> region =
      regions_->Register(*session, request.key(), static_cast<int64_t>(request.offset() + request.byte_size()));
  if (!region.ok()) return region.status();
  Entry& entry = entries_[request.name()];
  entry.status.set_name(request.name());
  entry.status.set_key(request.key());
  entry.status.set_offset(request.offset());
  entry.status.set_byte_size(request.byte_size());
  entry.region = *std::move(region);
  return absl::OkStatus();
}

absl::Status OpenInferenceRegions::Unregister(const std::string& name) {
  const base::MutexLock lock(&mutex_);
  absl::StatusOr<std::string> session = Session();
  if (!session.ok()) return session.status();
  const auto begin = name.empty() ? entries_.begin() : entries_.find(name);
  // The protocol says that an unknown name is no error.
  const auto end = name.empty() || begin == entries_.end() ? entries_.end() : std::next(begin);
  for (auto it = begin; it != end; ++it) regions_->Unregister(*session, it->second.region).IgnoreError();
  entries_.erase(begin, end);
  return absl::OkStatus();
}

absl::StatusOr<::inference::SystemSharedMemoryStatusResponse> OpenInferenceRegions::List(
    const std::string& name) const {
  if (regions_ == nullptr) return IsOff();
  ::inference::SystemSharedMemoryStatusResponse response;
  const base::MutexLock lock(&mutex_);
  if (!name.empty() && !entries_.contains(name)) return NoRegion(name);
  for (const auto& [entry_name, entry] : entries_) {
    if (name.empty() || name == entry_name) (*response.mutable_regions())[entry_name] = entry.status;
  }
  return response;
}

absl::StatusOr<v1::SharedMemoryRange> OpenInferenceRegions::Find(absl::string_view what, const std::string& name,
                                                                 int64_t offset, int64_t bytes) const {
  if (regions_ == nullptr) return IsOff();
  const base::MutexLock lock(&mutex_);
  const auto found = entries_.find(name);
  if (found == entries_.end()) return NoRegion(name);
  const ::inference::SystemSharedMemoryStatusResponse::RegionStatus& status = found->second.status;
  const auto size = static_cast<int64_t>(status.byte_size());
  if (offset < 0 || bytes < 0 || offset > size || bytes > size - offset) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, ": ", bytes, " bytes at offset ", offset, " leave ", Described(name), ", which has ", size));
  }
  v1::SharedMemoryRange range;
  range.set_region(found->second.region);
  range.set_offset(static_cast<int64_t>(status.offset()) + offset);
  return range;
}

}  // namespace normd::service
