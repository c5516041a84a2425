#ifndef NORMD_SERVER_KERNELS_COLUMNS_H_
#define NORMD_SERVER_KERNELS_COLUMNS_H_

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "server/kernels/compensated_sum.h"
#include "server/kernels/parallel_ranges.h"
#include "server/kernels/segments.h"

namespace normd::kernels {

// Walks over an (outer, C, inner) view with a short `inner` ((N,C), channels last, few points per channel) in the order
// of memory: the tensor is a matrix whose row is one or more whole `outer` rows, and every column belongs to a channel.
// Several outer rows make a matrix row where C * inner is small, so that loops over columns are long. Ops as in
// segments.h.
//
// The order of a reduction, fixed by the shape alone: in each column of a block of kBlockRows matrix rows, four rows at
// a time are added as ((r0 + r1) + (r2 + r3)), then the rest one by one; then a column's blocks in order and a
// channel's columns in order, both with compensation.
class ColumnScope {
 public:
  static constexpr int64_t kBlockRows = 128;
  // Columns of a tile: its partial sums and parameters stay in the first-level cache.
  static constexpr int64_t kTile = 1024;
  static constexpr int64_t kMinWidth = 64;

  ColumnScope(int64_t outer, int64_t num_channels, int64_t inner, int threads)
      : num_channels_(num_channels),
        inner_(inner),
        repeats_(std::clamp<int64_t>(kMinWidth / (num_channels * inner), 1, outer)),
        width_(repeats_ * num_channels * inner),
        elements_(outer * num_channels * inner),
        rows_(CeilDiv(elements_, width_)),
        blocks_(CeilDiv(rows_, kBlockRows)),
        tiles_(CeilDiv(width_, kTile)),
        threads_(threads) {}

  int64_t begin() const { return 0; }
  int64_t end() const { return num_channels_; }

  template <typename Op>
  void Reduce(const Op& op, const ParamArrays<Op::kParams>& params, const std::array<double*, Op::kSums>& sums) const {
    const std::vector<double> storage = ToColumns<Op::kParams>(params);
    const ParamArrays<Op::kParams> columns = Pointers<Op::kParams>(storage);
    std::vector<double> partial(static_cast<size_t>(blocks_ * Op::kSums * width_));
    ParallelRanges(blocks_ * tiles_, threads_, [&](int64_t first, int64_t last) {
      // From the end, which the pass before has left in cache.
      for (int64_t item = last; item-- > first;) {
        SumTile(op, columns, item / tiles_, item % tiles_ * kTile, &partial[item / tiles_ * Op::kSums * width_]);
      }
    });

    std::vector<double> total(partial.begin(), partial.begin() + Op::kSums * width_);
    std::vector<double> error(total.size(), 0.0);
    ParallelRanges(CeilDiv(std::ssize(total), kTile), threads_, [&](int64_t first, int64_t last) {
      const int64_t v0 = first * kTile;
      const int64_t v1 = std::min<int64_t>(last * kTile, std::ssize(total));
      for (int64_t b = 1; b < blocks_; ++b) {
        AddWithError(&partial[b * Op::kSums * width_], v0, v1, total.data(), error.data());
      }
    });
    for (int s = 0; s < Op::kSums; ++s) {
      for (int64_t c = 0; c < num_channels_; ++c) {
        CompensatedSum sum;
        for (int64_t r = 0; r < repeats_; ++r) {
          for (int64_t i = 0; i < inner_; ++i) {
            const int64_t v = s * width_ + (r * num_channels_ + c) * inner_ + i;
            sum.Add(CompensatedSum{total[v], error[v]}.Value());
          }
        }
        sums[s][c] = sum.Value();
      }
    }
  }

  // out[index] = op(index); the columns of a channel with !live[c] become 0.
  template <typename Op, typename T>
  void Map(const Op& op, const ParamArrays<Op::kParams>& params, absl::Span<const char> live, T* out) const {
    const std::vector<double> storage = ToColumns<Op::kParams>(params);
    const ParamArrays<Op::kParams> columns = Pointers<Op::kParams>(storage);
    const std::vector<int64_t> dead = DeadColumns(live);
    ParallelRanges(rows_, threads_, [&](int64_t first, int64_t last) {
      for (int64_t r0 = first; r0 < last; r0 += kBlockRows) {
        const int64_t r1 = std::min(last, r0 + kBlockRows);
        for (int64_t v0 = 0; v0 < width_; v0 += kTile) {
          for (int64_t r = r0; r < r1; ++r) MapRow(op, columns, r, v0, out);
        }
        for (int64_t r = r0; r < r1 && !dead.empty(); ++r) {
          for (int64_t v : dead) {
            if (r * width_ + v < elements_) out[r * width_ + v] = T{0};
          }
        }
      }
    });
  }

 private:
  // Parameters per channel, spread to the columns.
  template <int kParams>
  std::vector<double> ToColumns(const ParamArrays<kParams>& params) const {
    std::vector<double> columns(static_cast<size_t>(kParams * width_));
    auto out = columns.begin();
    for (int k = 0; k < kParams; ++k) {
      for (int64_t r = 0; r < repeats_; ++r) {
        for (int64_t c = 0; c < num_channels_; ++c) out = std::fill_n(out, inner_, params[k][c]);
      }
    }
    return columns;
  }

  template <int kParams>
  ParamArrays<kParams> Pointers(const std::vector<double>& columns) const {
    ParamArrays<kParams> pointers{};
    for (int k = 0; k < kParams; ++k) pointers[k] = columns.data() + k * width_;
    return pointers;
  }

  std::vector<int64_t> DeadColumns(absl::Span<const char> live) const {
    std::vector<int64_t> dead;
    if (std::find(live.begin(), live.end(), 0) == live.end()) return dead;
    for (int64_t v = 0; v < width_; ++v) {
      if (!live[v / inner_ % num_channels_]) dead.push_back(v);
    }
    return dead;
  }

  // Columns [v0, v0 + kTile) that row r has; the last row may end early.
  int64_t Length(int64_t r, int64_t v0) const {
    return std::clamp<int64_t>(std::min(width_, elements_ - r * width_) - v0, 0, kTile);
  }

  template <typename Op>
  void SumTile(const Op& op, const ParamArrays<Op::kParams>& columns, int64_t b, int64_t v0, double* partial) const {
    double sums[Op::kSums][kTile];
    const int64_t length = Length(b * kBlockRows, v0);
    for (int s = 0; s < Op::kSums; ++s) std::fill_n(sums[s], kTile, 0.0);
    // The rows that are complete; at most the tensor's last row is not.
    const int64_t r1 = std::min(elements_ / width_, (b + 1) * kBlockRows);
    int64_t r = b * kBlockRows;
    for (; r + 4 <= r1; r += 4) {
      const int64_t index = r * width_ + v0;
#pragma GCC ivdep
      for (int64_t v = 0; v < length; ++v) {
        const auto p = ParamsAt<Op::kParams>(columns, v0 + v);
        const auto t0 = op(index + v, p);
        const auto t1 = op(index + width_ + v, p);
        const auto t2 = op(index + 2 * width_ + v, p);
        const auto t3 = op(index + 3 * width_ + v, p);
        for (int s = 0; s < Op::kSums; ++s) sums[s][v] += (t0[s] + t1[s]) + (t2[s] + t3[s]);
      }
    }
    for (; r < std::min(rows_, (b + 1) * kBlockRows); ++r) {
      const int64_t index = r * width_ + v0;
      const int64_t row_length = Length(r, v0);
#pragma GCC ivdep
      for (int64_t v = 0; v < row_length; ++v) {
        const auto t = op(index + v, ParamsAt<Op::kParams>(columns, v0 + v));
        for (int s = 0; s < Op::kSums; ++s) sums[s][v] += t[s];
      }
    }
    // The block's first row may be the tensor's last, but its other columns hold zeros, not garbage.
    for (int s = 0; s < Op::kSums; ++s) {
      std::copy_n(sums[s], std::min(kTile, width_ - v0), partial + s * width_ + v0);
    }
  }

  static void AddWithError(const double* terms, int64_t v0, int64_t v1, double* total, double* error) {
#pragma GCC ivdep
    for (int64_t v = v0; v < v1; ++v) {
      CompensatedSum sum{total[v], error[v]};
      sum.Add(terms[v]);
      total[v] = sum.sum;
      error[v] = sum.error;
    }
  }

  template <typename Op, typename T>
  void MapRow(const Op& op, const ParamArrays<Op::kParams>& columns, int64_t r, int64_t v0, T* out) const {
    const int64_t index = r * width_ + v0;
    const int64_t length = Length(r, v0);
#pragma GCC ivdep
    for (int64_t v = 0; v < length; ++v) {
      out[index + v] = static_cast<T>(op(index + v, ParamsAt<Op::kParams>(columns, v0 + v)));
    }
  }

  int64_t num_channels_;
  int64_t inner_;
  int64_t repeats_;
  int64_t width_;
  int64_t elements_;
  int64_t rows_;
  int64_t blocks_;
  int64_t tiles_;
  int threads_;
};

}  // namespace normd::kernels

#endif  // NORMD_SERVER_KERNELS_COLUMNS_H_
