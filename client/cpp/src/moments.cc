#include "normd/moments.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "client/cpp/src/extents.h"
#include "server/kernels/batch_norm.h"
#include "server/kernels/extremes.h"
#include "server/kernels/half.h"
#include "server/kernels/view.h"

namespace normd {
inline namespace abi_0_1 {
namespace {

using internal::Extents;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Pieces of a tensor this large are still in the cache when they are read a second time.
constexpr int64_t kPieceBytes = 128 << 10;

// Whole rows of `outer`, one piece after the other, aligned to the element, as the kernels want it.
template <typename T, typename Take>
void ForEachPiece(const Extents& extents, const char* data, const Take& take) {
  const int64_t row_bytes = extents.num_channels * extents.inner * static_cast<int64_t>(sizeof(T));
  const int64_t rows = std::max<int64_t>(1, kPieceBytes / row_bytes);
  const bool aligned = reinterpret_cast<std::uintptr_t>(data) % alignof(T) == 0;
  std::vector<T> copy;
  for (int64_t o = 0; o < extents.outer; o += rows) {
    const int64_t taken = std::min(rows, extents.outer - o);
    const char* piece = data + o * row_bytes;
    if (!aligned) {
      copy.resize(static_cast<std::size_t>(taken * extents.num_channels * extents.inner));
      std::memcpy(copy.data(), piece, static_cast<std::size_t>(taken * row_bytes));
      piece = reinterpret_cast<const char*>(copy.data());
    }
    take(kernels::NcsView<const T>{reinterpret_cast<const T*>(piece), taken, extents.num_channels, extents.inner});
  }
}

// The sum of squared deviations that gives the population variance `var` again when it is divided by n. The one that
// `var` was made of is var * n up to its last place.
double SumOfSquares(double var, double n) {
  const double product = var * n;
  for (const double m2 : {product, std::nextafter(product, 0.0), std::nextafter(product, kInfinity)}) {
    if (m2 / n == var) return m2;
  }
  return product;
}

// Calls visit(channel, value) for the values of some channels, in the order of memory.
template <typename T, typename Visit>
void VisitChannels(const Extents& extents, const char* data, const std::vector<std::size_t>& channels,
                   const Visit& visit) {
  const std::size_t row_bytes = static_cast<std::size_t>(extents.inner) * sizeof(T);
  for (int64_t o = 0; o < extents.outer; ++o) {
    for (const std::size_t c : channels) {
      const char* at = data + (static_cast<std::size_t>(o * extents.num_channels) + c) * row_bytes;
      for (int64_t i = 0; i < extents.inner; ++i, at += sizeof(T)) {
        T value;
        std::memcpy(&value, at, sizeof(T));
        visit(c, kernels::ToDouble(value));
      }
    }
  }
}

Moments None(std::size_t num_channels) {
  return {.count = std::vector<int64_t>(num_channels),
          .mean = std::vector<double>(num_channels),
          .m2 = std::vector<double>(num_channels),
          .min = std::vector<double>(num_channels, kInfinity),
          .max = std::vector<double>(num_channels, -kInfinity),
          .non_finite_count = std::vector<int64_t>(num_channels)};
}

// The finite values of some channels alone, in two passes.
template <typename T>
void OfFiniteValues(const Extents& extents, const char* data, const std::vector<std::size_t>& channels,
                    Moments* moments) {
  for (const std::size_t c : channels) {
    moments->count[c] = moments->non_finite_count[c] = 0;
    moments->mean[c] = moments->m2[c] = 0;
    moments->min[c] = kInfinity;
    moments->max[c] = -kInfinity;
  }
  VisitChannels<T>(extents, data, channels, [&](std::size_t c, double value) {
    if (!std::isfinite(value)) {
      moments->non_finite_count[c] += 1;
      return;
    }
    moments->count[c] += 1;
    moments->mean[c] += value;
    moments->min[c] = std::min(moments->min[c], value);
    moments->max[c] = std::max(moments->max[c], value);
  });
  for (const std::size_t c : channels) {
    if (moments->count[c] > 0) moments->mean[c] /= static_cast<double>(moments->count[c]);
  }
  // What rounding has left in the first sums.
  std::vector<double> rest(moments->mean.size());
  VisitChannels<T>(extents, data, channels, [&](std::size_t c, double value) {
    if (!std::isfinite(value)) return;
    const double deviation = value - moments->mean[c];
    rest[c] += deviation;
    moments->m2[c] += deviation * deviation;
  });
  for (const std::size_t c : channels) {
    if (moments->count[c] == 0) continue;
    const auto count = static_cast<double>(moments->count[c]);
    moments->mean[c] += rest[c] / count;
    moments->m2[c] = std::max(0.0, moments->m2[c] - rest[c] * (rest[c] / count));
  }
}

// REQUIRES: at least one value in each channel. `moments` is None.
template <typename T>
void Compute(const Extents& extents, const char* data, Moments* moments) {
  kernels::MomentsAccumulator accumulator(extents.num_channels, extents.inner);
  ForEachPiece<T>(extents, data, [&](kernels::NcsView<const T> piece) {
    accumulator.Add<T>(piece, 1);
    kernels::WidenExtremes<T>(piece, absl::MakeSpan(moments->min), absl::MakeSpan(moments->max));
  });
  std::vector<double> var(moments->mean.size());
  accumulator.Statistics(absl::MakeSpan(moments->mean), absl::MakeSpan(var));

  std::vector<std::size_t> not_finite;
  for (std::size_t c = 0; c < var.size(); ++c) {
    moments->count[c] = extents.ValuesPerChannel();
    moments->m2[c] = SumOfSquares(var[c], static_cast<double>(extents.ValuesPerChannel()));
    // A single value that is not makes them so.
    if (!std::isfinite(moments->mean[c]) || !std::isfinite(var[c])) not_finite.push_back(c);
  }
  if (!not_finite.empty()) OfFiniteValues<T>(extents, data, not_finite, moments);
}

absl::Status CheckLengths(const Moments& moments, std::size_t num_channels) {
  const struct {
    const char* name;
    std::size_t size;
    bool optional;
  } lists[] = {{"count", moments.count.size(), false}, {"mean", moments.mean.size(), false},
               {"m2", moments.m2.size(), false},       {"min", moments.min.size(), true},
               {"max", moments.max.size(), true},      {"non_finite_count", moments.non_finite_count.size(), true}};
  for (const auto& list : lists) {
    if (list.size == num_channels || (list.optional && list.size == 0)) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("moments: ", list.name, " has ", list.size, " entries, want ", num_channels));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Moments::Merge(const Moments& other) {
  if (other.mean.empty()) return CheckLengths(other, 0);
  const std::size_t num_channels = other.mean.size();
  if (absl::Status status = CheckLengths(other, num_channels); !status.ok()) return status;
  if (mean.empty()) {
    absl::Status status = CheckLengths(*this, 0);
    if (status.ok()) *this = other;
    return status;
  }
  if (absl::Status status = CheckLengths(*this, num_channels); !status.ok()) return status;

  if (min.empty() || max.empty() || other.min.empty() || other.max.empty()) {
    min.clear();
    max.clear();
  }
  if (!other.non_finite_count.empty()) non_finite_count.resize(num_channels);
  for (std::size_t c = 0; c < num_channels; ++c) {
    if (!other.non_finite_count.empty()) non_finite_count[c] += other.non_finite_count[c];
    if (other.count[c] == 0) continue;
    if (count[c] == 0) {
      // Whatever stands there.
      mean[c] = other.mean[c];
      m2[c] = other.m2[c];
      if (!min.empty()) min[c] = other.min[c];
      if (!max.empty()) max[c] = other.max[c];
    } else {
      const auto own = static_cast<double>(count[c]);
      const double share = static_cast<double>(other.count[c]) / static_cast<double>(count[c] + other.count[c]);
      const double delta = other.mean[c] - mean[c];
      mean[c] += delta * share;
      m2[c] += other.m2[c] + delta * delta * (own * share);
      if (!min.empty()) min[c] = std::min(min[c], other.min[c]);
      if (!max.empty()) max[c] = std::max(max[c], other.max[c]);
    }
    count[c] += other.count[c];
  }
  return absl::OkStatus();
}

absl::StatusOr<Moments> ComputeMoments(const TensorView& x) {
  const absl::StatusOr<Extents> extents = internal::CheckedExtents("x", x);
  if (!extents.ok()) return extents.status();
  Moments moments = None(static_cast<std::size_t>(extents->num_channels));
  if (x.data.empty()) return moments;
  internal::WithElement(x.dtype, [&](auto element) { Compute<decltype(element)>(*extents, x.data.data(), &moments); });
  return moments;
}

}  // namespace abi_0_1
}  // namespace normd
