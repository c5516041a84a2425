#include "server/access/access_control.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace normd::access {

AccessControl::AccessControl(AccessOptions options, const base::Clock& clock, OnReload on_reload)
    : options_(std::move(options)),
      clock_(clock),
      files_(options_.file.empty() ? std::vector<std::string>{} : std::vector<std::string>{options_.file}, clock),
      on_reload_(std::move(on_reload)) {
  auto everybody = std::make_shared<Identity>();
  everybody->grants.push_back(*Grant::Parse("admin:*"));
  if (options_.calls_per_second > 0) {
    everybody->limiter = std::make_shared<RateLimiter>(options_.calls_per_second, clock_);
  }
  everybody_ = std::move(everybody);
}

absl::StatusOr<std::unique_ptr<AccessControl>> AccessControl::Open(const AccessOptions& options,
                                                                   const base::Clock& clock, OnReload on_reload) {
  std::unique_ptr<AccessControl> control(new AccessControl(options, clock, std::move(on_reload)));
  if (!control->identifies()) return control;
  const base::MutexLock reload(&control->reload_mutex_);
  absl::StatusOr<std::shared_ptr<const AccessList>> list = control->Read();
  if (!list.ok()) return list.status();
  const base::MutexLock lock(&control->list_mutex_);
  control->list_ = *std::move(list);
  return control;
}

absl::StatusOr<std::shared_ptr<const AccessList>> AccessControl::Read() const {
  absl::StatusOr<std::string> text = base::ReadFile(options_.file);
  if (!text.ok()) return text.status();
  absl::StatusOr<AccessList> list = AccessList::Parse(*text);
  if (!list.ok()) return absl::InvalidArgumentError(absl::StrCat(options_.file, ": ", list.status().message()));
  for (const auto& [name, identity] : list->identities()) {
    const double rate = identity->calls_per_second > 0 ? identity->calls_per_second : options_.calls_per_second;
    if (rate <= 0) continue;
    std::shared_ptr<RateLimiter>& limiter = limiters_[name];
    if (limiter == nullptr || limiter->calls_per_second() != rate) {
      limiter = std::make_shared<RateLimiter>(rate, clock_);
    }
    identity->limiter = limiter;
  }
  return std::make_shared<const AccessList>(*std::move(list));
}

std::shared_ptr<const AccessList> AccessControl::list() const {
  if (files_.Changed()) {
    const base::MutexLock reload(&reload_mutex_);
    absl::StatusOr<std::shared_ptr<const AccessList>> list = Read();
    on_reload_(list.status());
    if (list.ok()) {
      const base::MutexLock lock(&list_mutex_);
      list_ = *std::move(list);
    }
  }
  const base::MutexLock lock(&list_mutex_);
  return list_;
}

}  // namespace normd::access
