#include "client/cpp/src/extents.h"

#include <cstddef>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/cpp/src/memory.h"

namespace normd::internal {

absl::StatusOr<Extents> CheckedExtents(absl::string_view what, const TensorView& tensor) {
  const absl::StatusOr<std::size_t> size = CheckedBytesOf(tensor.shape, tensor.dtype);
  if (!size.ok()) return size.status();
  if (tensor.shape.size() < 2 || tensor.shape.size() > 8 || tensor.data.size() != *size) {
    return absl::InvalidArgumentError(absl::StrCat(what, " of shape [", absl::StrJoin(tensor.shape, ", "), "] and ",
                                                   tensor.data.size(), " bytes of ", NameOf(tensor.dtype),
                                                   ": want rank 2 to 8 and ", *size, " bytes"));
  }
  Extents extents;
  const std::size_t channel = tensor.layout == Layout::kChannelsLast ? tensor.shape.size() - 1 : 1;
  for (std::size_t i = 0; i < tensor.shape.size(); ++i) {
    (i < channel ? extents.outer : i == channel ? extents.num_channels : extents.inner) *= tensor.shape[i];
  }
  return extents;
}

}  // namespace normd::internal
