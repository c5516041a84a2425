#ifndef NORMD_SERVER_KERNELS_EXTREMES_H_
#define NORMD_SERVER_KERNELS_EXTREMES_H_

#include "absl/types/span.h"
#include "server/kernels/view.h"

namespace normd::kernels {

// min[c] and max[c] become the smallest and largest of themselves and the values of channel c, exactly; begin with
// infinity and -infinity. T, extents and alignment as in batch_norm.h. The numbers of a channel that holds a NaN mean
// nothing. -0 and +0 are one number. Thread-safe; runs in the calling thread, at several times the speed of
// BatchStatistics.
template <typename T>
void WidenExtremes(NcsView<const T> x, absl::Span<double> min, absl::Span<double> max);

}  // namespace normd::kernels

#endif  // NORMD_SERVER_KERNELS_EXTREMES_H_
