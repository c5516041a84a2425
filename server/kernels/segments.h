#ifndef NORMD_SERVER_KERNELS_SEGMENTS_H_
#define NORMD_SERVER_KERNELS_SEGMENTS_H_

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "server/kernels/compensated_sum.h"
#include "server/kernels/parallel_ranges.h"

// Walks over an (outer, C, inner) view whose `inner` is long enough to be worth a loop of its own: every (o, c) is a
// contiguous segment with the parameters of one channel.
//
// An operation over elements ("Op") says
//   static constexpr int kParams;                          numbers it needs per channel
//   static constexpr int kSums;                            (to Reduce) how many sums it makes
//   std::array<double, kSums> operator()(int64_t index, const std::array<double, kParams>& params)    terms of an
//   element
// or, to Map, returns the double that becomes the element's output.
namespace normd::kernels {

template <int kParams>
using ParamArrays = std::array<const double*, kParams>;

template <int kParams>
inline std::array<double, kParams> ParamsAt(const ParamArrays<kParams>& arrays, int64_t i) {
  std::array<double, kParams> p{};
  for (int k = 0; k < kParams; ++k) p[k] = arrays[k][i];
  return p;
}

// The order of a reduction, fixed by the shape alone: a channel's values are cut into blocks (whole rows of `outer`, or
// pieces of one row where rows are long). In a block, element j of a segment goes into partial sum j % kLanes; the
// lanes are added as a tree, and the blocks in order with compensation. Who works on which block does not matter.
class Segments {
 public:
  static constexpr int kLanes = 8;
  static constexpr int64_t kBlock = 4096;
  static constexpr int64_t kMaxGroup = 64;

  Segments(int64_t outer, int64_t num_channels, int64_t inner)
      : outer_(outer),
        num_channels_(num_channels),
        inner_(inner),
        pieces_(CeilDiv(inner, kBlock)),
        rows_per_block_(pieces_ > 1 ? 1 : std::max<int64_t>(1, kBlock / inner)),
        num_blocks_(pieces_ > 1 ? outer * pieces_ : CeilDiv(outer, rows_per_block_)) {}

  int64_t num_channels() const { return num_channels_; }
  int64_t num_blocks() const { return num_blocks_; }

  // Channels to walk together, so that the reads are long also where `inner` is short and a group stays in cache.
  int64_t GroupSize(int threads) const {
    const int64_t for_length = CeilDiv(kBlock / 2, inner_);
    const int64_t for_balance = CeilDiv(num_channels_, 4 * static_cast<int64_t>(threads));
    return std::clamp<int64_t>(std::min(for_length, for_balance), 1, kMaxGroup);
  }

  // Sums of block b for channels [c0, c0 + count), count <= kMaxGroup: partial[s * count + (c - c0)].
  template <typename Op>
  void SumBlock(const Op& op, const ParamArrays<Op::kParams>& params, int64_t b, int64_t c0, int64_t count,
                double* partial) const {
    const int64_t o0 = pieces_ > 1 ? b / pieces_ : b * rows_per_block_;
    const int64_t o1 = pieces_ > 1 ? o0 + 1 : std::min(outer_, o0 + rows_per_block_);
    const int64_t i0 = pieces_ > 1 ? b % pieces_ * kBlock : 0;
    const int64_t length = std::min(inner_ - i0, kBlock);
    double lanes[kMaxGroup][Op::kSums][kLanes];
    for (int64_t c = 0; c < count; ++c) {
      for (int s = 0; s < Op::kSums; ++s) std::fill_n(lanes[c][s], kLanes, 0.0);
    }
    for (int64_t o = o0; o < o1; ++o) {
      for (int64_t c = 0; c < count; ++c) {
        AddRun(op, (o * num_channels_ + c0 + c) * inner_ + i0, length, ParamsAt<Op::kParams>(params, c0 + c), lanes[c]);
      }
    }
    for (int64_t c = 0; c < count; ++c) {
      for (int s = 0; s < Op::kSums; ++s) partial[s * count + c] = AddLanes(lanes[c][s]);
    }
  }

  // out[index] = op(index) for elements [begin, begin + length) of one segment. Op may read where out writes, at the
  // same index.
  template <typename Op, typename T>
  static void MapRun(const Op& op, int64_t begin, int64_t length, const std::array<double, Op::kParams>& params,
                     T* out) {
#pragma GCC ivdep
    for (int64_t i = begin; i < begin + length; ++i) out[i] = static_cast<T>(op(i, params));
  }

  // The same over all segments of channels [c0, c1); those of a channel with !live[c] become 0.
  template <typename Op, typename T>
  void MapGroup(const Op& op, const ParamArrays<Op::kParams>& params, int64_t c0, int64_t c1,
                absl::Span<const char> live, T* out) const {
    for (int64_t o = 0; o < outer_; ++o) {
      for (int64_t c = c0; c < c1; ++c) MapPiece(op, params, o, c, 0, inner_, live, out);
    }
  }

  // The same over everything, row by row.
  template <typename Op, typename T>
  void MapAll(const Op& op, const ParamArrays<Op::kParams>& params, int threads, absl::Span<const char> live,
              T* out) const {
    ParallelRanges(outer_ * num_channels_ * pieces_, threads, [&](int64_t begin, int64_t end) {
      for (int64_t item = begin; item < end; ++item) {
        const int64_t row = item / pieces_;
        const int64_t i0 = item % pieces_ * kBlock;
        const int64_t i1 = std::min(inner_, i0 + kBlock);
        MapPiece(op, params, row / num_channels_, row % num_channels_, i0, i1, live, out);
      }
    });
  }

 private:
  template <typename Op>
  static void AddRun(const Op& op, int64_t begin, int64_t length, const std::array<double, Op::kParams>& params,
                     double (*lanes)[kLanes]) {
    double local[Op::kSums][kLanes];
    for (int s = 0; s < Op::kSums; ++s) std::copy_n(lanes[s], kLanes, local[s]);
    int64_t i = 0;
    for (; i + kLanes <= length; i += kLanes) {
      for (int j = 0; j < kLanes; ++j) {
        const auto terms = op(begin + i + j, params);
        for (int s = 0; s < Op::kSums; ++s) local[s][j] += terms[s];
      }
    }
    for (int j = 0; i < length; ++i, ++j) {
      const auto terms = op(begin + i, params);
      for (int s = 0; s < Op::kSums; ++s) local[s][j] += terms[s];
    }
    for (int s = 0; s < Op::kSums; ++s) std::copy_n(local[s], kLanes, lanes[s]);
  }

  static double AddLanes(const double* v) {
    static_assert(kLanes == 8);
    return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
  }

  template <typename Op, typename T>
  void MapPiece(const Op& op, const ParamArrays<Op::kParams>& params, int64_t o, int64_t c, int64_t i0, int64_t i1,
                absl::Span<const char> live, T* out) const {
    const int64_t begin = (o * num_channels_ + c) * inner_ + i0;
    if (!live.empty() && !live[c]) {
      std::fill_n(out + begin, i1 - i0, T{0});
    } else {
      MapRun(op, begin, i1 - i0, ParamsAt<Op::kParams>(params, c), out);
    }
  }

  int64_t outer_;
  int64_t num_channels_;
  int64_t inner_;
  int64_t pieces_;
  int64_t rows_per_block_;
  int64_t num_blocks_;
};

// A scope is a range of channels [begin(), end()) with a way to reduce and to map it. This one is a group of few
// channels on the calling thread: a second pass over it finds it in cache.
class GroupScope {
 public:
  GroupScope(const Segments& segments, int64_t c0, int64_t c1) : segments_(segments), c0_(c0), c1_(c1) {}

  int64_t begin() const { return c0_; }
  int64_t end() const { return c1_; }

  // sums[s][c] for the channels of the scope.
  template <typename Op>
  void Reduce(const Op& op, const ParamArrays<Op::kParams>& params, const std::array<double*, Op::kSums>& sums) const {
    const int64_t count = c1_ - c0_;
    CompensatedSum totals[Op::kSums * Segments::kMaxGroup];
    double partial[Op::kSums * Segments::kMaxGroup];
    for (int64_t b = 0; b < segments_.num_blocks(); ++b) {
      segments_.SumBlock(op, params, b, c0_, count, partial);
      for (int64_t k = 0; k < Op::kSums * count; ++k) totals[k].Add(partial[k]);
    }
    for (int s = 0; s < Op::kSums; ++s) {
      for (int64_t c = 0; c < count; ++c) sums[s][c0_ + c] = totals[s * count + c].Value();
    }
  }

  template <typename Op, typename T>
  void Map(const Op& op, const ParamArrays<Op::kParams>& params, absl::Span<const char> live, T* out) const {
    segments_.MapGroup(op, params, c0_, c1_, live, out);
  }

 private:
  const Segments& segments_;
  int64_t c0_;
  int64_t c1_;
};

// All channels, few and long, with the threads sharing each channel's blocks.
class BlockScope {
 public:
  BlockScope(const Segments& segments, int threads) : segments_(segments), threads_(threads) {}

  int64_t begin() const { return 0; }
  int64_t end() const { return segments_.num_channels(); }

  template <typename Op>
  void Reduce(const Op& op, const ParamArrays<Op::kParams>& params, const std::array<double*, Op::kSums>& sums) const {
    const int64_t blocks = segments_.num_blocks();
    std::vector<double> partial(static_cast<size_t>(blocks * end() * Op::kSums));
    ParallelRanges(blocks * end(), threads_, [&](int64_t first, int64_t last) {
      for (int64_t item = first; item < last; ++item) {
        segments_.SumBlock(op, params, item % blocks, item / blocks, 1, &partial[item * Op::kSums]);
      }
    });
    for (int64_t c = 0; c < end(); ++c) {
      for (int s = 0; s < Op::kSums; ++s) {
        CompensatedSum total;
        for (int64_t b = 0; b < blocks; ++b) total.Add(partial[(c * blocks + b) * Op::kSums + s]);
        sums[s][c] = total.Value();
      }
    }
  }

  template <typename Op, typename T>
  void Map(const Op& op, const ParamArrays<Op::kParams>& params, absl::Span<const char> live, T* out) const {
    segments_.MapAll(op, params, threads_, live, out);
  }

 private:
  const Segments& segments_;
  int threads_;
};

}  // namespace normd::kernels

#endif  // NORMD_SERVER_KERNELS_SEGMENTS_H_
