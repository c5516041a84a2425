#include "server/kernels/implementation.h"

#include <atomic>
#include <vector>

#include "server/kernels/vector/kernels.h"

namespace normd::kernels {
namespace {

// In order of preference.
const Implementation* const kImplementations[] = {
#ifdef __x86_64__
    &avx512::kImplementation,
    &avx2::kImplementation,
#endif
    &baseline::kImplementation,
};

const std::vector<const Implementation*>& Supported() {
  static const auto* supported = [] {
    auto* list = new std::vector<const Implementation*>;
    for (const Implementation* implementation : kImplementations) {
      if (implementation->supported()) list->push_back(implementation);
    }
    return list;
  }();
  return *supported;
}

std::atomic<const Implementation*>& Active() {
  static std::atomic<const Implementation*> active = Supported().front();
  return active;
}

}  // namespace

absl::Span<const Implementation* const> SupportedImplementations() { return Supported(); }

const Implementation& ActiveImplementation() { return *Active().load(std::memory_order_relaxed); }

bool UseImplementation(absl::string_view name) {
  for (const Implementation* implementation : Supported()) {
    if (name != implementation->name) continue;
    Active().store(implementation, std::memory_order_relaxed);
    return true;
  }
  return false;
}

}  // namespace normd::kernels
