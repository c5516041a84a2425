#include "normd/version.h"

namespace normd {

absl::string_view Version() { return NORMD_VERSION; }

}  // namespace normd
