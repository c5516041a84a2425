#ifndef NORMD_TESTS_BENCHMARKS_RPC_NORMD_LAYER_H_
#define NORMD_TESTS_BENCHMARKS_RPC_NORMD_LAYER_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "normd/client.h"

namespace normd::benchmarks {

// Makes the layer of a Workload, in its starting state, unless there is one of that name.
absl::Status EnsureLayer(Client* client, const std::string& name, int64_t num_channels);

}  // namespace normd::benchmarks

#endif  // NORMD_TESTS_BENCHMARKS_RPC_NORMD_LAYER_H_
