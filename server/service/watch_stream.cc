#include "server/service/watch_stream.h"

#include <algorithm>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/layer/layer_name.h"
#include "server/service/layer_conversion.h"
#include "server/service/status_conversion.h"

namespace normd::service {
namespace {

constexpr int kMaxNames = 10'000;
constexpr int kNamesAtATime = 1000;
constexpr std::chrono::hours kMaxInterval(1);

absl::StatusOr<std::chrono::nanoseconds> ToInterval(const google::protobuf::Duration& duration) {
  const std::chrono::nanoseconds interval = std::chrono::seconds(std::clamp<int64_t>(duration.seconds(), -1, 7200)) +
                                            std::chrono::nanoseconds(duration.nanos());
  if (interval >= std::chrono::nanoseconds(0) && interval <= kMaxInterval) return interval;
  return absl::InvalidArgumentError(
      absl::StrCat("min_interval is ", duration.seconds(), " s and ", duration.nanos(), " ns, want 0 to 3600 s"));
}

}  // namespace

absl::StatusOr<WatchSpec> ToWatchSpec(const v1::WatchLayersRequest& request, const access::Caller& caller,
                                      const registry::LayerRegistry& registry) {
  WatchSpec spec;
  if (absl::Status status = TakeCall(caller); !status.ok()) return status;
  if (request.names_size() > kMaxNames) {
    return absl::InvalidArgumentError(
        absl::StrCat("there are ", request.names_size(), " names, want at most ", kMaxNames));
  }
  if (request.names_size() > 0 && !request.prefix().empty()) {
    return absl::InvalidArgumentError("there are names and a prefix, want one of them");
  }
  for (const v1::KnownLayer& known : request.known()) {
    spec.known[known.name()] = {known.uid(), known.version()};
  }
  for (const std::string& name : request.names()) {
    if (absl::Status status = caller.Check(access::Role::kRead, name); !status.ok()) return status;
    // One that the caller knew may have gone since: that is news.
    if (!spec.known.contains(name)) {
      if (absl::Status status = registry.Get(name).status(); !status.ok()) return status;
    }
    spec.names.push_back(name);
  }
  spec.prefix = request.prefix();
  if (request.view() != v1::LAYER_VIEW_UNSPECIFIED) {
    absl::StatusOr<v1::LayerView> view = ToLayerView(request.view());
    if (!view.ok()) return view.status();
    spec.view = *view;
  }
  absl::StatusOr<std::chrono::nanoseconds> interval = ToInterval(request.min_interval());
  if (!interval.ok()) return interval.status();
  spec.min_interval = *interval;
  return spec;
}

void WatchStreams::Stop() {
  const base::MutexLock lock(&mutex_);
  stopping_ = true;
  // None goes meanwhile: its OnDone waits for this lock.
  for (WatchStream* stream : streams_) stream->Stop();
}

int64_t WatchStreams::size() const {
  const base::MutexLock lock(&mutex_);
  return static_cast<int64_t>(streams_.size());
}

WatchStream::WatchStream(grpc::CallbackServerContext* context, access::Caller caller, int64_t request_bytes,
                         absl::StatusOr<WatchSpec> spec, registry::LayerRegistry* registry, WatchStreams* open,
                         CallObserver* observer)
    : context_(context),
      caller_(std::move(caller)),
      request_bytes_(request_bytes),
      observer_(observer),
      registry_(registry),
      open_(open) {
  const absl::Status refused = spec.status();
  if (refused.ok()) spec_ = *std::move(spec);
  names_.insert(spec_.names.begin(), spec_.names.end());
  // Before the layers are read, so that no change is missed.
  registry_->directory()->watchers().Add(this);
  bool stopping = false;
  {
    const base::MutexLock lock(&open_->mutex_);
    open_->streams_.insert(this);
    stopping = open_->stopping_;
  }
  const base::MutexLock lock(&mutex_);
  if (!refused.ok() || stopping) {
    End(refused.ok() ? absl::UnavailableError("the server is stopping") : refused);
    return;
  }
  for (auto& [name, known] : spec_.known) {
    if (!Watches(name)) continue;
    sent_[name] = {.uid = std::move(known.first), .version = known.second};
    Enqueue(name);
  }
  spec_.known.clear();
  for (const std::string& name : spec_.names) Enqueue(name);
  if (spec_.names.empty()) {
    registry::ListPage page;
    do {
      page = registry_->List(spec_.prefix, page.last_name, kNamesAtATime);
      for (const registry::LayerRegistry::SnapshotPtr& layer : page.layers) Enqueue(layer->name);
    } while (!page.last_name.empty());
  }
  Proceed(Clock::now());
}

bool WatchStream::Watches(const std::string& name) const {
  return names_.empty() ? absl::StartsWith(name, spec_.prefix) : names_.contains(name);
}

void WatchStream::Enqueue(const std::string& name) {
  if (queued_.insert(name).second) queue_.push_back(name);
}

registry::WatchHub::Clock::time_point WatchStream::Wake(absl::Span<const std::string> changed, Clock::time_point now) {
  const base::MutexLock lock(&mutex_);
  if (finished_) return Clock::time_point::max();
  for (const std::string& name : changed) {
    if (Watches(name)) Enqueue(name);
  }
  Proceed(now);
  // While something is written nothing else can be: the end of that goes on with what is due by then.
  return later_.empty() || writing_ ? Clock::time_point::max() : later_.begin()->first;
}

bool WatchStream::Proceed(Clock::time_point now) {
  if (writing_ || finished_) return false;
  while (!later_.empty() && later_.begin()->first <= now) {
    Enqueue(later_.begin()->second);
    later_.erase(later_.begin());
  }
  while (!queue_.empty()) {
    const std::string name = std::move(queue_.front());
    queue_.pop_front();
    queued_.erase(name);
    if (!Fill(name, now)) continue;
    writing_ = true;
    StartWrite(&response_);
    return false;
  }
  return !later_.empty();
}

bool WatchStream::Fill(const std::string& name, Clock::time_point now) {
  const auto sent = sent_.find(name);
  if (sent != sent_.end() && sent->second.due > now) {
    later_.emplace(sent->second.due, name);
    return false;
  }
  response_.Clear();
  if (!caller_.Allows(access::Role::kRead, name)) return false;
  // Here and now: the hub's thread must not wait for a store.
  const absl::StatusOr<std::shared_ptr<registry::LayerEntry>> found = registry_->directory()->Find(name);
  if (!found.ok()) {
    if (sent == sent_.end()) return false;
    response_.mutable_layer()->set_name(name);
    response_.mutable_layer()->set_uid(sent->second.uid);
    response_.mutable_layer()->set_version(sent->second.version);
    response_.set_deleted(true);
    sent_.erase(sent);
    return true;
  }
  const registry::LayerRegistry::SnapshotPtr snapshot = (*found)->Snapshot();
  const layer::LayerSnapshot& layer = *snapshot;
  if (sent != sent_.end() && sent->second.uid == layer.uid && sent->second.version == layer.version) return false;
  ToProto(layer, spec_.view, response_.mutable_layer());
  sent_[name] = {.uid = layer.uid, .version = layer.version, .due = now + spec_.min_interval};
  return true;
}

void WatchStream::OnWriteDone(bool ok) {
  bool poke = false;
  {
    const base::MutexLock lock(&mutex_);
    writing_ = false;
    if (ok) {
      response_bytes_ += static_cast<int64_t>(response_.ByteSizeLong());
      poke = Proceed(Clock::now());
    } else {
      End(absl::UnavailableError("the connection is gone"));
    }
  }
  // Not under the lock, which the hub's thread takes.
  if (poke) registry_->directory()->watchers().Poke();
}

void WatchStream::Stop() {
  const base::MutexLock lock(&mutex_);
  End(absl::UnavailableError("the server is stopping"));
}

void WatchStream::OnCancel() {
  const base::MutexLock lock(&mutex_);
  End(absl::CancelledError("the call was cancelled"));
}

void WatchStream::End(const absl::Status& status) {
  if (finished_) return;
  finished_ = true;
  observer_->OnCall(CallRecord{.method = "WatchLayers",
                               .layer = spec_.names.size() == 1 ? absl::string_view(spec_.names.front()) : "",
                               .request_id = "",
                               .context = *context_,
                               .request_bytes = request_bytes_,
                               .response_bytes = response_bytes_,
                               .status = status,
                               .duration = absl::FromChrono(Clock::now() - start_)});
  Finish(ToGrpcStatus(status));
}

void WatchStream::OnDone() {
  registry_->directory()->watchers().Remove(this);
  {
    const base::MutexLock lock(&open_->mutex_);
    open_->streams_.erase(this);
  }
  delete this;
}

}  // namespace normd::service
