#include "normd/moments.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/cpp/src/element.h"
#include "client/cpp/src/memory.h"

namespace normd {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// A tensor as (outer, num_channels, inner).
struct Extents {
  std::size_t outer = 1;
  std::size_t num_channels = 1;
  std::size_t inner = 1;
};

// REQUIRES: rank >= 2 and a size that CheckedBytesOf takes.
Extents ExtentsOf(const TensorView& x) {
  Extents extents;
  const std::size_t channel = x.layout == Layout::kChannelsLast ? x.shape.size() - 1 : 1;
  for (std::size_t i = 0; i < x.shape.size(); ++i) {
    std::size_t& extent = i < channel ? extents.outer : i == channel ? extents.num_channels : extents.inner;
    extent *= static_cast<std::size_t>(x.shape[i]);
  }
  return extents;
}

// Calls visit(channel, value) for each element in the order of memory, which need not be aligned.
template <typename T, typename Visit>
void VisitAs(const Extents& extents, const char* data, const Visit& visit) {
  for (std::size_t o = 0; o < extents.outer; ++o) {
    for (std::size_t c = 0; c < extents.num_channels; ++c) {
      for (std::size_t i = 0; i < extents.inner; ++i, data += sizeof(T)) {
        T value;
        std::memcpy(&value, data, sizeof(T));
        visit(c, internal::ToDouble(value));
      }
    }
  }
}

template <typename Visit>
void VisitElements(const TensorView& x, const Extents& extents, const Visit& visit) {
  switch (x.dtype) {
    case DType::kFloat32:
      return VisitAs<float>(extents, x.data.data(), visit);
    case DType::kFloat64:
      return VisitAs<double>(extents, x.data.data(), visit);
    case DType::kFloat16:
      return VisitAs<Float16>(extents, x.data.data(), visit);
    case DType::kBFloat16:
      return VisitAs<BFloat16>(extents, x.data.data(), visit);
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
  const absl::StatusOr<std::size_t> size = internal::CheckedBytesOf(x.shape, x.dtype);
  if (!size.ok()) return size.status();
  if (x.shape.size() < 2 || x.shape.size() > 8 || x.data.size() != *size) {
    return absl::InvalidArgumentError(absl::StrCat("x of shape [", absl::StrJoin(x.shape, ", "), "] and ",
                                                   x.data.size(), " bytes of ", NameOf(x.dtype),
                                                   ": want rank 2 to 8 and ", *size, " bytes"));
  }
  const Extents extents = ExtentsOf(x);
  Moments moments = None(extents.num_channels);
  VisitElements(x, extents, [&](std::size_t c, double value) {
    if (!std::isfinite(value)) {
      moments.non_finite_count[c] += 1;
      return;
    }
    moments.count[c] += 1;
    moments.mean[c] += value;
    moments.min[c] = std::min(moments.min[c], value);
    moments.max[c] = std::max(moments.max[c], value);
  });
  for (std::size_t c = 0; c < extents.num_channels; ++c) {
    if (moments.count[c] > 0) moments.mean[c] /= static_cast<double>(moments.count[c]);
  }
  // What rounding has left in the first sums.
  std::vector<double> rest(extents.num_channels);
  VisitElements(x, extents, [&](std::size_t c, double value) {
    if (!std::isfinite(value)) return;
    const double deviation = value - moments.mean[c];
    rest[c] += deviation;
    moments.m2[c] += deviation * deviation;
  });
  for (std::size_t c = 0; c < extents.num_channels; ++c) {
    if (moments.count[c] == 0) continue;
    const auto count = static_cast<double>(moments.count[c]);
    moments.mean[c] += rest[c] / count;
    moments.m2[c] = std::max(0.0, moments.m2[c] - rest[c] * (rest[c] / count));
  }
  return moments;
}

}  // namespace normd
