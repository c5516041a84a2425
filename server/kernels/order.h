#ifndef NORMD_SERVER_KERNELS_ORDER_H_
#define NORMD_SERVER_KERNELS_ORDER_H_

#include <cstdint>

// The order in which the values of a channel are added, defined here once and followed by every implementation. It
// depends on num_channels, inner and a value's place in its channel, and on nothing else: not on `outer`, so a tensor
// may arrive in pieces along it; not on threads, vector width or alignment. All additions are float64; multiplications
// and additions are rounded one by one (a fused multiply-add stands only where it rounds the same). docs/batch_norm.md,
// "Order of the sums", says the same in prose.
//
// A sum of a channel is built from blocks. Their sums are added in order with TwoSum (Knuth: the rounding error of
// every addition is kept beside the sum and added at the end). A block's sum:
//
//   inner >= kMinRow ("rows"): the block holds BlockRows(inner) whole rows (o, c, :), or, where inner > kBlockValues,
//   one
//     piece of kBlockValues values of a row (the last piece of a row may be shorter). Value j of a row or piece is
//     added to lane j % kLanes; the lanes are then halved: lane i += lane i + 8, then + 4, + 2, + 1.
//   inner < kMinRow ("columns"): (N, C), channels last and few points per channel. The tensor is a matrix in the order
//     of memory whose row is Repeats(...) outer rows; its columns are the lanes. A block holds BlockMatrixRows(...)
//     rows of the matrix, added to each column one after the other. The blocks of a column are added with TwoSum, and
//     then the columns of a channel in order, with TwoSum.
namespace normd::kernels::order {

inline constexpr int kLanes = 16;
inline constexpr int64_t kMinRow = 16;
inline constexpr int64_t kBlockValues = 4096;

[[gnu::always_inline]] constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
[[gnu::always_inline]] constexpr int64_t Min(int64_t a, int64_t b) { return a < b ? a : b; }
[[gnu::always_inline]] constexpr int64_t Max(int64_t a, int64_t b) { return a < b ? b : a; }
[[gnu::always_inline]] constexpr int64_t RoundUp(int64_t a, int64_t b) { return CeilDiv(a, b) * b; }

[[gnu::always_inline]] constexpr bool ByRows(int64_t inner) { return inner >= kMinRow; }

// Rows: pieces of a row, and rows of a block (1 where rows are cut into pieces).
[[gnu::always_inline]] constexpr int64_t Pieces(int64_t inner) { return CeilDiv(inner, kBlockValues); }
[[gnu::always_inline]] constexpr int64_t BlockRows(int64_t inner) { return Max(1, kBlockValues / inner); }

// Columns: outer rows in a row of the matrix. Narrow rows are put together until they are wide enough for vectors and
// a multiple of kLanes wide.
[[gnu::always_inline]] constexpr int64_t Repeats(int64_t num_channels, int64_t inner) {
  const int64_t row = num_channels * inner;
  if (row >= 64) return 1;
  int64_t repeats = 1;
  while (repeats * row % kLanes != 0) repeats *= 2;
  return repeats * CeilDiv(64, repeats * row);
}
[[gnu::always_inline]] constexpr int64_t MatrixWidth(int64_t num_channels, int64_t inner) {
  return Repeats(num_channels, inner) * num_channels * inner;
}
// About 64 Ki values to a block: few enough blocks that their sums are small beside the tensor.
[[gnu::always_inline]] constexpr int64_t BlockMatrixRows(int64_t width) { return Min(1024, Max(128, 65536 / width)); }

}  // namespace normd::kernels::order

#endif  // NORMD_SERVER_KERNELS_ORDER_H_
