#ifndef NORMD_TESTS_SERVER_REGISTRY_REGISTRY_FIXTURE_H_
#define NORMD_TESTS_SERVER_REGISTRY_REGISTRY_FIXTURE_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "server/base/clock.h"
#include "server/layer/presets.h"
#include "server/layer/tensor.h"
#include "server/registry/inference.h"
#include "server/registry/layer_registry.h"
#include "server/registry/training.h"
#include "server/store/memory_store.h"
#include "tests/fake_clock.h"
#include "tests/status_matchers.h"

namespace normd::tests {

// A borrowed tensor; `values` outlives it.
template <typename T>
layer::TensorView View(const std::vector<T>& values, std::vector<int64_t> shape,
                       layer::Layout layout = layer::Layout::kChannelsFirst) {
  return {sizeof(T) == 4 ? layer::DType::kFloat32 : layer::DType::kFloat64, std::move(shape), layout,
          absl::MakeConstSpan(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T))};
}

// A registry, and layers made from presets.
class RegistryTest : public ::testing::Test {
 protected:
  using SnapshotPtr = registry::LayerRegistry::SnapshotPtr;

  // Creates a layer; `change` works on the preset's settings.
  SnapshotPtr MakeLayer(const std::string& name, int64_t num_channels, const std::string& preset = "reference",
                        const std::function<void(layer::LayerConfig&)>& change = nullptr) {
    registry::CreateLayerSpec spec = Spec(name, num_channels, preset);
    if (change) change(spec.config);
    auto created = registry_.Create(spec);
    EXPECT_THAT(created, IsOk());
    return created.ok() ? *created : nullptr;
  }

  static registry::CreateLayerSpec Spec(const std::string& name, int64_t num_channels,
                                        const std::string& preset = "reference") {
    registry::CreateLayerSpec spec;
    spec.name = name;
    spec.preset = preset;
    spec.config = layer::PresetConfig(preset).value();
    spec.config.num_channels = num_channels;
    return spec;
  }

  SnapshotPtr Get(const std::string& name) {
    auto got = registry_.Get(name);
    EXPECT_THAT(got, IsOk());
    return got.ok() ? *got : nullptr;
  }

  template <typename T>
  static char* Bytes(std::vector<T>* values) {
    return reinterpret_cast<char*>(values->data());
  }

  FakeClock clock_;
  store::MemoryStore store_;
  registry::LayerRegistry registry_{
      {.max_layers = 10'000, .max_channels = 4096, .requests = {}, .versions = {}}, clock_, &store_};
  registry::CallControl control_;
};

}  // namespace normd::tests

#endif  // NORMD_TESTS_SERVER_REGISTRY_REGISTRY_FIXTURE_H_
