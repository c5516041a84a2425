#ifndef NORMD_SERVER_REGISTRY_CONFIG_UPDATE_H_
#define NORMD_SERVER_REGISTRY_CONFIG_UPDATE_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "server/layer/layer_config.h"
#include "server/registry/layer_registry.h"

// The steps of LayerRegistry::Update that know LayerConfig's fields by name.
namespace normd::registry {

// INVALID_ARGUMENT, listing what can be changed: no field, or one that LayerConfig does not have. FAILED_PRECONDITION:
// an immutable one.
absl::Status CheckUpdateFields(absl::Span<const std::string> fields);

// INVALID_ARGUMENT: a field that means nothing for a layer of this config.
absl::Status CheckFieldsApply(const ConfigUpdate& update, const layer::LayerConfig& config);

// Copies the named fields from update.values. REQUIRES CheckUpdateFields(update.fields).
void TakeOverFields(const ConfigUpdate& update, layer::LayerConfig* config);

}  // namespace normd::registry

#endif  // NORMD_SERVER_REGISTRY_CONFIG_UPDATE_H_
