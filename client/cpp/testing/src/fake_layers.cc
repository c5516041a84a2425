#include "client/cpp/testing/src/fake_layers.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "client/cpp/testing/src/fake_config.h"
#include "client/cpp/testing/src/fake_steps.h"
#include "google/protobuf/util/time_util.h"

namespace normd::testing {
namespace {

google::protobuf::Timestamp Now() {
  return google::protobuf::util::TimeUtil::NanosecondsToTimestamp(absl::ToUnixNanos(absl::Now()));
}

// The same for layers that give the same output, which is what the API asks of it (FNV-1a).
std::string HashOf(const v1::Layer& layer) {
  v1::Layer relevant;
  relevant.mutable_config()->set_eps(layer.config().eps());
  if (layer.config().has_clip()) relevant.mutable_config()->set_clip(layer.config().clip());
  *relevant.mutable_state()->mutable_running_mean() = layer.state().running_mean();
  *relevant.mutable_state()->mutable_running_var() = layer.state().running_var();
  *relevant.mutable_state()->mutable_gamma() = layer.state().gamma();
  *relevant.mutable_state()->mutable_beta() = layer.state().beta();
  uint64_t hash = 14695981039346656037u;
  for (const char c : relevant.SerializeAsString()) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211u;
  return absl::StrFormat("fake%016x", hash);
}

v1::Layer InView(const v1::Layer& layer, v1::LayerView view) {
  v1::Layer answer = layer;
  if (view == v1::LAYER_VIEW_STATE) {
    SetInvStd(answer.config(), answer.mutable_state());
  } else {
    answer.clear_state();
  }
  return answer;
}

absl::Status CheckEtag(const v1::Layer& layer, const std::string& etag) {
  if (etag.empty() || etag == layer.etag()) return absl::OkStatus();
  return absl::AbortedError(absl::StrCat("layer '", layer.name(), "' has etag ", layer.etag(), ", want ", etag));
}

absl::Status CheckVersion(const v1::Layer& layer, int64_t expected) {
  if (expected == 0 || expected == layer.version()) return absl::OkStatus();
  return absl::AbortedError(
      absl::StrCat("layer '", layer.name(), "' has version ", layer.version(), ", want ", expected));
}

absl::Status CheckName(const std::string& name) {
  bool good = !name.empty() && name.size() <= 256 && name.back() != '.';
  char before = '.';
  for (const char c : name) {
    good = good &&
           (absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '-' || (c == '.' && before != '.'));
    before = c;
  }
  if (good) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("layer name '", name, "', want segments of letters, digits, _ and -, joined by single dots"));
}

}  // namespace

void Commit(FakeLayer* layer) {
  v1::Layer& now = layer->now;
  now.set_version(now.version() + 1);
  now.set_content_hash(HashOf(now));
  *now.mutable_update_time() = Now();
  layer->versions[now.version()] = now;
}

absl::StatusOr<FakeLayer*> FakeLayers::Find(const std::string& name) {
  const auto found = layers_.find(name);
  if (found == layers_.end()) return absl::NotFoundError(absl::StrCat("layer '", name, "' does not exist"));
  return &found->second;
}

absl::StatusOr<const v1::Layer*> FakeLayers::FindVersion(const std::string& name, int64_t version) {
  const absl::StatusOr<FakeLayer*> layer = Find(name);
  if (!layer.ok()) return layer.status();
  if (version == 0) return &(*layer)->now;
  const auto found = (*layer)->versions.find(version);
  if (found != (*layer)->versions.end()) return &found->second;
  return absl::FailedPreconditionError(absl::StrCat("layer '", name, "' has no version ", version));
}

absl::StatusOr<FakeLayer*> FakeLayers::FindToChange(const std::string& name) {
  absl::StatusOr<FakeLayer*> layer = Find(name);
  if (layer.ok() && (*layer)->now.config().frozen()) {
    return absl::FailedPreconditionError(absl::StrCat("layer '", name, "' is frozen"));
  }
  return layer;
}

template <typename Request, typename Response, typename Change>
absl::Status FakeLayers::Once(const Request& request, Response* response, const Change& change) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (request.request_id().empty()) return change();
  const std::string serialized = absl::StrCat(Request::descriptor()->full_name(), request.SerializeAsString());
  const auto found = answers_.find(request.request_id());
  if (found == answers_.end()) {
    absl::Status status = change();
    if (status.ok()) answers_[request.request_id()] = {serialized, response->SerializeAsString()};
    return status;
  }
  if (found->second.request != serialized) {
    return absl::InvalidArgumentError(
        absl::StrCat("request_id '", request.request_id(), "' was given before with a different call"));
  }
  response->ParseFromString(found->second.response);
  if constexpr (requires { response->set_replayed(true); }) response->set_replayed(true);
  return absl::OkStatus();
}

absl::Status FakeLayers::Handle(const v1::CreateLayerRequest& request, v1::CreateLayerResponse* response) {
  return Once(request, response, [&]() -> absl::Status {
    if (absl::Status status = CheckName(request.name()); !status.ok()) return status;
    if (layers_.contains(request.name())) {
      return absl::AlreadyExistsError(absl::StrCat("layer '", request.name(), "' exists"));
    }
    const absl::StatusOr<v1::LayerConfig> config = ResolveConfig(request.preset(), request.config());
    if (!config.ok()) return config.status();
    FakeLayer layer;
    layer.now.set_name(request.name());
    layer.now.set_uid(absl::StrCat("fake-", ++num_created_));
    layer.now.set_preset(request.preset().empty() ? "reference" : request.preset());
    *layer.now.mutable_config() = *config;
    *layer.now.mutable_state() = InitialState(*config);
    layer.now.set_etag(absl::StrCat(layer.now.uid(), "-1"));
    *layer.now.mutable_create_time() = Now();
    if (absl::Status status = SetState(*config, request.initial_state(), layer.now.mutable_state()); !status.ok()) {
      return status;
    }
    Commit(&layer);
    *response->mutable_layer() = InView(layer.now, v1::LAYER_VIEW_CONFIG);
    layers_.emplace(request.name(), std::move(layer));
    return absl::OkStatus();
  });
}

absl::Status FakeLayers::Handle(const v1::GetLayerRequest& request, v1::GetLayerResponse* response) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const absl::StatusOr<const v1::Layer*> layer = FindVersion(request.name(), request.version());
  if (!layer.ok()) return layer.status();
  const bool not_modified = request.if_newer_than() > 0 && (*layer)->version() <= request.if_newer_than();
  response->set_not_modified(not_modified);
  *response->mutable_layer() = InView(**layer, not_modified ? v1::LAYER_VIEW_CONFIG : request.view());
  return absl::OkStatus();
}

absl::Status FakeLayers::Handle(const v1::ListLayersRequest& request, v1::ListLayersResponse* response) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const int page_size = request.page_size() == 0 ? 100 : std::min(request.page_size(), 1000);
  // The token is the last name of the page before.
  for (auto it = layers_.upper_bound(request.page_token()); it != layers_.end(); ++it) {
    if (!absl::StartsWith(it->first, request.prefix())) continue;
    if (response->layers_size() == page_size) {
      response->set_next_page_token(response->layers(page_size - 1).name());
      break;
    }
    *response->add_layers() = InView(it->second.now, request.view());
  }
  return absl::OkStatus();
}

absl::Status FakeLayers::Handle(const v1::UpdateLayerRequest& request, v1::UpdateLayerResponse* response) {
  return Once(request, response, [&]() -> absl::Status {
    const auto& paths = request.update_mask().paths();
    const bool thaws = !request.config().frozen() && std::find(paths.begin(), paths.end(), "frozen") != paths.end();
    const absl::StatusOr<FakeLayer*> layer = thaws ? Find(request.name()) : FindToChange(request.name());
    if (!layer.ok()) return layer.status();
    v1::Layer& now = (*layer)->now;
    absl::Status status = CheckEtag(now, request.etag());
    if (status.ok()) status = UpdateConfig(request.update_mask(), request.config(), now.mutable_config());
    if (!status.ok()) return status;
    now.set_etag(absl::StrCat(now.uid(), "-", now.version() + 1));
    Commit(*layer);
    *response->mutable_layer() = InView(now, v1::LAYER_VIEW_CONFIG);
    return absl::OkStatus();
  });
}

absl::Status FakeLayers::Handle(const v1::DeleteLayerRequest& request, v1::DeleteLayerResponse* response) {
  return Once(request, response, [&]() -> absl::Status {
    const absl::StatusOr<FakeLayer*> layer = Find(request.name());
    if (!layer.ok()) return layer.status();
    if (absl::Status status = CheckEtag((*layer)->now, request.etag()); !status.ok()) return status;
    layers_.erase(request.name());
    return absl::OkStatus();
  });
}

absl::Status FakeLayers::Handle(const v1::ResetStatisticsRequest& request, v1::ResetStatisticsResponse* response) {
  return Once(request, response, [&]() -> absl::Status {
    const absl::StatusOr<FakeLayer*> layer = FindToChange(request.name());
    if (!layer.ok()) return layer.status();
    v1::Layer& now = (*layer)->now;
    if (absl::Status status = CheckVersion(now, request.expected_version()); !status.ok()) return status;
    v1::LayerState fresh = InitialState(now.config());
    fresh.mutable_gamma()->Swap(now.mutable_state()->mutable_gamma());
    fresh.mutable_beta()->Swap(now.mutable_state()->mutable_beta());
    *now.mutable_state() = std::move(fresh);
    Commit(*layer);
    *response->mutable_layer() = InView(now, v1::LAYER_VIEW_CONFIG);
    return absl::OkStatus();
  });
}

absl::Status FakeLayers::Handle(const v1::SetStateRequest& request, v1::SetStateResponse* response) {
  return Once(request, response, [&]() -> absl::Status {
    const absl::StatusOr<FakeLayer*> layer = FindToChange(request.name());
    if (!layer.ok()) return layer.status();
    v1::Layer& now = (*layer)->now;
    absl::Status status = CheckVersion(now, request.expected_version());
    if (status.ok()) status = SetState(now.config(), request.state(), now.mutable_state());
    if (!status.ok()) return status;
    if (request.reset_optimizer()) (*layer)->optimizer = FakeOptimizer();
    Commit(*layer);
    *response->mutable_layer() = InView(now, v1::LAYER_VIEW_CONFIG);
    return absl::OkStatus();
  });
}

absl::Status FakeLayers::Handle(const v1::TrainStepRequest& request, v1::TrainStepResponse* response) {
  return Once(request, response, [&]() -> absl::Status {
    const absl::StatusOr<FakeLayer*> layer =
        request.skip_update() ? Find(request.layer()) : FindToChange(request.layer());
    if (!layer.ok()) return layer.status();
    return TrainStep(request, *layer, response);
  });
}

absl::Status FakeLayers::Handle(const v1::InferRequest& request, v1::InferResponse* response) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const absl::StatusOr<const v1::Layer*> layer = FindVersion(request.layer(), request.version());
  if (!layer.ok()) return layer.status();
  return Infer(request, **layer, response);
}

absl::Status FakeLayers::Handle(const v1::DenormalizeRequest& request, v1::DenormalizeResponse* response) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const absl::StatusOr<const v1::Layer*> layer = FindVersion(request.layer(), request.version());
  if (!layer.ok()) return layer.status();
  return Denormalize(request, **layer, response);
}

absl::Status FakeLayers::Handle(const v1::BackwardRequest& request, v1::BackwardResponse* response) {
  return Once(request, response, [&]() -> absl::Status {
    const bool changes = request.optimizer_case() != v1::BackwardRequest::OPTIMIZER_NOT_SET;
    const absl::StatusOr<FakeLayer*> layer = changes ? FindToChange(request.layer()) : Find(request.layer());
    if (!layer.ok()) return layer.status();
    const absl::StatusOr<const v1::Layer*> version = FindVersion(request.layer(), request.version());
    if (!version.ok()) return version.status();
    return Backward(request, **version, *layer, response);
  });
}

absl::Status FakeLayers::Handle(const v1::MergeMomentsRequest& request, v1::MergeMomentsResponse* response) {
  return Once(request, response, [&]() -> absl::Status {
    const absl::StatusOr<FakeLayer*> layer = FindToChange(request.layer());
    if (!layer.ok()) return layer.status();
    return MergeMoments(request, *layer, response);
  });
}

}  // namespace normd::testing
