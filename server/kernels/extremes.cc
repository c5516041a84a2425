#include "server/kernels/extremes.h"

#include <algorithm>
#include <cassert>
#include <cstdint>
#include <iterator>

#include "server/kernels/half.h"
#include "server/kernels/order.h"
#include "server/kernels/scratch.h"

namespace normd::kernels {
namespace {

// What is compared in an element's place: a number that every machine compares by vectors.
template <typename T>
struct Key {
  using Type = T;
  [[gnu::always_inline]] static Type Of(T value) { return value; }
  static T ValueOf(Type key) { return key; }
};

// The bits of 16-bit numbers are ordered as the numbers are once those of negative ones are turned around.
template <typename T>
requires(sizeof(T) == sizeof(int16_t)) struct Key<T> {
  using Type = int16_t;
  [[gnu::always_inline]] static Type Of(T value) {
    const auto bits = static_cast<int16_t>(value.bits);
    return static_cast<int16_t>(bits ^ (bits >> 15 & 0x7FFF));
  }
  // Turned around twice they are what they were.
  static T ValueOf(Type key) { return {static_cast<uint16_t>(Of({static_cast<uint16_t>(key)}))}; }
};

// Smallest and largest keys of `size` columns, in memory of a Scratch.
template <typename T>
class Columns {
 public:
  Columns(int64_t size, Scratch* scratch) : min_(Keys(size, scratch)), max_(Keys(size, scratch)) {}

  // The first value of each of `count` columns.
  void Begin(const T* values, int64_t count) {
    for (int64_t v = 0; v < count; ++v) min_[v] = max_[v] = Key<T>::Of(values[v]);
  }

  // The next value of each.
  void Add(const T* values, int64_t count) {
    K* const min = min_;
    K* const max = max_;
#pragma GCC ivdep
    for (int64_t v = 0; v < count; ++v) {
      const K key = Key<T>::Of(values[v]);
      min[v] = key < min[v] ? key : min[v];
      max[v] = key > max[v] ? key : max[v];
    }
  }

  // Columns [count, 2 * count) go to those before them.
  void Halve(int64_t count) {
    K* const min = min_;
    K* const max = max_;
#pragma GCC ivdep
    for (int64_t v = 0; v < count; ++v) {
      min[v] = min[v + count] < min[v] ? min[v + count] : min[v];
      max[v] = max[v + count] > max[v] ? max[v + count] : max[v];
    }
  }

  // Columns [from, to) belong to one channel.
  void Give(int64_t from, int64_t to, double* min, double* max) const {
    for (int64_t v = from; v < to; ++v) {
      *min = std::min(*min, ToDouble(Key<T>::ValueOf(min_[v])));
      *max = std::max(*max, ToDouble(Key<T>::ValueOf(max_[v])));
    }
  }

 private:
  using K = typename Key<T>::Type;
  // No key is larger than a double.
  static K* Keys(int64_t size, Scratch* scratch) { return reinterpret_cast<K*>(scratch->Doubles(size)); }

  K* min_;
  K* max_;
};

// Columns that keep the vectors of every machine busy.
constexpr int64_t kWide = 64;

// Each row (o, c, :) as columns of its own. REQUIRES inner >= kWide.
template <typename T>
void ByRows(const NcsView<const T>& x, absl::Span<double> min, absl::Span<double> max) {
  Scratch scratch;
  Columns<T> columns(kWide, &scratch);
  for (int64_t row = 0; row < x.outer * x.num_channels; ++row) {
    const T* const values = x.data + row * x.inner;
    columns.Begin(values, kWide);
    for (int64_t i = kWide; i + kWide <= x.inner; i += kWide) columns.Add(values + i, kWide);
    // To the end; some of these a second time.
    columns.Add(values + x.inner - kWide, kWide);
    for (int64_t left = kWide / 2; left >= 8; left /= 2) columns.Halve(left);
    const int64_t c = row % x.num_channels;
    columns.Give(0, 8, &min[c], &max[c]);
  }
}

// The tensor as a matrix with rows of `outer`, several side by side where they are narrow.
template <typename T>
void ByColumns(const NcsView<const T>& x, absl::Span<double> min, absl::Span<double> max) {
  const int64_t row = x.num_channels * x.inner;
  const int64_t width = row * order::Min(x.outer, order::CeilDiv(kWide, row));
  Scratch scratch;
  Columns<T> columns(width, &scratch);
  columns.Begin(x.data, width);
  const int64_t elements = x.Elements();
  for (int64_t at = width; at < elements; at += width) columns.Add(x.data + at, order::Min(width, elements - at));
  for (int64_t v = 0; v < width; v += x.inner) {
    const int64_t c = v / x.inner % x.num_channels;
    columns.Give(v, v + x.inner, &min[c], &max[c]);
  }
}

}  // namespace

template <typename T>
void WidenExtremes(NcsView<const T> x, absl::Span<double> min, absl::Span<double> max) {
  assert(std::ssize(min) == x.num_channels && std::ssize(max) == x.num_channels);
  if (x.inner >= kWide) {
    ByRows(x, min, max);
  } else {
    ByColumns(x, min, max);
  }
}

#define NORMD_INSTANTIATE(T) template void WidenExtremes<T>(NcsView<const T>, absl::Span<double>, absl::Span<double>)
NORMD_INSTANTIATE(float);
NORMD_INSTANTIATE(double);
NORMD_INSTANTIATE(Float16);
NORMD_INSTANTIATE(BFloat16);
#undef NORMD_INSTANTIATE

}  // namespace normd::kernels
