#ifndef NORMD_TESTS_SERVER_KERNELS_BITS_H_
#define NORMD_TESTS_SERVER_KERNELS_BITS_H_

#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "absl/types/span.h"
#include "server/kernels/batch_norm.h"
#include "tests/server/kernels/truth.h"

// All that the kernels compute, as bits to be compared. Needs no test framework, so that it can be built for machines
// that have none (bits_main.cc).
namespace normd::kernels::bits {

using truth::MutableViewOf;
using truth::Shape;
using truth::ViewOf;

// Numbers that are the same with every standard library.
class Numbers {
 public:
  explicit Numbers(uint64_t seed) : state_(seed) {}
  double operator()() {
    state_ = state_ * 6364136223846793005U + 1442695040888963407U;
    return static_cast<double>(state_ >> 40) * 0x1p-23 - 1;
  }

 private:
  uint64_t state_;
};

template <typename T>
std::vector<T> Values(int64_t count, uint64_t seed, double scale = 2, double offset = 0.75) {
  Numbers numbers(seed);
  std::vector<T> values(static_cast<size_t>(count));
  for (T& v : values) FromDouble(scale * numbers() + offset, &v);
  return values;
}

// Everything that the kernels make of one input, as bytes in a fixed order.
template <typename T>
class Everything {
 public:
  Everything(const Shape& s, const std::vector<T>& x, const std::vector<T>& dy, int threads, bool in_place) {
    const auto channels = static_cast<size_t>(s.num_channels);
    std::vector<double> mean(channels);
    std::vector<double> var(channels);
    std::vector<double> inv_std(channels);
    std::vector<double> dgamma(channels);
    std::vector<double> dbeta(channels);
    const auto gamma = Values<double>(s.num_channels, 11, 0.5, 1.5);
    const auto beta = Values<double>(s.num_channels, 12);
    BatchStatistics(ViewOf(s, x.data()), threads, absl::MakeSpan(mean), absl::MakeSpan(var));
    Take(mean);
    Take(var);
    InverseStd(var, 1e-5, absl::MakeSpan(inv_std));
    Take(inv_std);
    std::vector<T> out(x.size());
    for (const double clip : {std::numeric_limits<double>::infinity(), 0.5}) {
      const ChannelParams params{.mean = mean, .inv_std = inv_std, .gamma = gamma, .beta = beta, .clip = clip};
      if (in_place) out = x;
      const T* from = in_place ? out.data() : x.data();
      Normalize(ViewOf(s, from), params, threads, MutableViewOf(s, out.data()));
      Take(out);
      std::vector<double> again_mean(channels);
      std::vector<double> again_var(channels);
      if (in_place) out = x;
      NormalizeBatch(ViewOf(s, from), {.eps = 1e-5, .gamma = gamma, .beta = beta, .clip = clip}, threads,
                     absl::MakeSpan(again_mean), absl::MakeSpan(again_var), MutableViewOf(s, out.data()));
      const size_t size = out.size() * sizeof(T);
      batch_is_both_in_one_ = batch_is_both_in_one_ && again_mean == mean && again_var == var &&
                              std::memcmp(out.data(), &bytes_[bytes_.size() - size], size) == 0;
      for (const GradientMode mode : {GradientMode::kBatch, GradientMode::kConstant}) {
        if (in_place) out = dy;
        Backward(ViewOf(s, x.data()), ViewOf(s, in_place ? out.data() : dy.data()), params, mode, threads,
                 absl::MakeSpan(dgamma), absl::MakeSpan(dbeta), MutableViewOf(s, out.data()));
        Take(out);
        Take(dgamma);
        Take(dbeta);
      }
      Backward(ViewOf(s, x.data()), ViewOf(s, dy.data()), params, GradientMode::kBatch, threads, absl::MakeSpan(dgamma),
               absl::MakeSpan(dbeta), NcsView<T>{});
      Take(dgamma);
      Take(dbeta);
    }
    if (in_place) out = x;
    Denormalize(ViewOf(s, in_place ? out.data() : x.data()), {.mean = mean, .inv_std = inv_std, .gamma = gamma},
                threads, MutableViewOf(s, out.data()));
    Take(out);
  }

  bool operator==(const Everything& other) const { return bytes_ == other.bytes_; }

  // Whether NormalizeBatch gave what BatchStatistics and Normalize gave.
  bool batch_is_both_in_one() const { return batch_is_both_in_one_; }

  // FNV-1a.
  uint64_t Hash() const {
    uint64_t hash = 14695981039346656037U;
    for (const unsigned char byte : bytes_) hash = (hash ^ byte) * 1099511628211U;
    return hash;
  }

 private:
  template <typename V>
  void Take(const std::vector<V>& values) {
    const auto* begin = reinterpret_cast<const unsigned char*>(values.data());
    bytes_.insert(bytes_.end(), begin, begin + values.size() * sizeof(V));
  }

  std::vector<unsigned char> bytes_;
  bool batch_is_both_in_one_ = true;
};

// What the kernels gave when the mean was first folded into the offset. Another value means that the order of the sums,
// or the rounding of something, has changed: then outputs, and perhaps a layer's running statistics and content hash,
// change from one release to the next.
template <typename T>
constexpr uint64_t kGolden = std::is_same_v<T, float>     ? 16674615902966843663U
                             : std::is_same_v<T, double>  ? 9782179872273681927U
                             : std::is_same_v<T, Float16> ? 9908443649583356850U
                                                          : 1043641085774674427U;

// The hash that should be kGolden<T>.
template <typename T>
uint64_t GoldenHash() {
  uint64_t hash = 0;
  for (const Shape& s : std::vector<Shape>{{300, 70, 1}, {129, 3, 5}, {20, 5, 49}, {7, 6, 1000}, {2, 3, 9001}}) {
    const auto x = Values<T>(s.Elements(), 5);
    const auto dy = Values<T>(s.Elements(), 6);
    hash = hash * 31 + Everything<T>(s, x, dy, 2, false).Hash();
  }
  return hash;
}

}  // namespace normd::kernels::bits

#endif  // NORMD_TESTS_SERVER_KERNELS_BITS_H_
