#include "normd/version.h"

namespace normd {
inline namespace abi_0_1 {

absl::string_view Version() { return NORMD_VERSION; }

}  // namespace abi_0_1
}  // namespace normd
