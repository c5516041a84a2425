// Sums over the columns of a matrix, see columns.h. Included by kernels_*.cc only; see v16.h.
namespace normd::kernels::NORMD_KERNELS_ISA {

// Whether a tensor of so many elements has a finished block, and so totals; before, they are not looked at.
inline bool HasTotals(int64_t elements, int64_t num_channels, int64_t inner) {
  const int64_t width = order::MatrixWidth(num_channels, inner);
  return elements >= width * order::BlockMatrixRows(width);
}

// The sums of columns, continued from piece to piece of a tensor that is cut along `outer`. Arrays of kSums * stride
// doubles, one stretch of `stride` (the width rounded up to chunks) per sum.
struct ColumnSums {
  double* total;
  double* error;
  // Of the block that is not complete.
  double* open;
};

// A number that the compiler takes as it is.
template <typename V>
[[gnu::always_inline]] inline V Opaque(V value) {
  asm("" : "+r"(value));
  return value;
}

// Where up to eight rows begin, `width` elements apart: from one pointer and multiples of the width, which an address
// can have. The compiler by itself would keep a pointer for each row, more than there are registers for.
template <typename T>
struct RowPointers {
  explicit RowPointers(int64_t width)
      : one(Opaque(width * static_cast<int64_t>(sizeof(T)))),
        three(Opaque(3 * one)),
        five(Opaque(5 * one)),
        seven(Opaque(7 * one)) {}

  template <int kRow>
  [[gnu::always_inline]] const T* Row(const T* first) const {
    static_assert(kRow < 8);
    constexpr int kFactor[] = {0, 1, 2, 1, 4, 1, 2, 1};
    const int64_t offset = kRow == 3 || kRow == 6 ? three : kRow == 5 ? five : kRow == 7 ? seven : one;
    return reinterpret_cast<const T*>(reinterpret_cast<const char*>(first) + kFactor[kRow] * offset);
  }

  int64_t one;
  int64_t three;
  int64_t five;
  int64_t seven;
};

// How sums over columns ask for memory ahead of its use. AMD's Zen 5 brings in by itself what its caches hold, and what
// is read to be written; asking then only takes room from what is needed now (docs/performance.md). What comes from
// DRAM is best asked for into the first level there. Intel's has fewer buffers for lines on their way.
enum class Ahead { kNot, kToSecondLevel, kToFirstLevel };
inline Ahead ChooseAhead(int64_t bytes, int threads) {
  // As much for each thread is taken to lie in a cache.
  constexpr int64_t kCached = 16 << 20;
  if (!OnAmd()) return Ahead::kToSecondLevel;
  return bytes <= kCached * threads ? Ahead::kNot : Ahead::kToFirstLevel;
}

template <typename T, typename R>
class ColumnAdder {
 public:
  // `done` elements of the tensor came before `tensors`, which is the next piece of it.
  ColumnAdder(const Tensors<T>& tensors, int64_t done, const ChannelArrays<R::kParams>& params, double bound)
      : tensors_(tensors),
        params_(params),
        bound_(bound),
        width_(order::MatrixWidth(tensors.num_channels, tensors.inner)),
        stride_(order::RoundUp(width_, order::kLanes)),
        block_rows_(order::BlockMatrixRows(width_)),
        begin_(done),
        end_(done + tensors.elements()),
        centered_(!kMaySkipCenter<R, T> || AnyCenter(params.array[0], tensors.num_channels)) {}

  static int64_t Stride(int64_t num_channels, int64_t inner) {
    return order::RoundUp(order::MatrixWidth(num_channels, inner), order::kLanes);
  }

  // Adds the piece to `sums`.
  void Add(int threads, const ColumnSums& sums) {
    ahead_ = ChooseAhead(R::kInputs * tensors_.elements() * static_cast<int64_t>(sizeof(T)), threads);
    Scratch scratch;
    for (int k = 0; k < R::kParams; ++k) {
      double* spread = scratch.Doubles(stride_);
      SpreadToColumns(params_.array[k], tensors_.num_channels, tensors_.inner, stride_, spread);
      columns_[k] = spread;
    }
    const int64_t block_elements = block_rows_ * width_;
    first_block_ = begin_ / block_elements;
    const int64_t blocks = order::CeilDiv(end_, block_elements) - first_block_;
    const int64_t tiles = order::CeilDiv(stride_, kTile);
    sums_ = sums;
    // The first block adds to what is open; the others begin with zeros, the last one may stay open.
    partial_ = scratch.Doubles(order::Max(0, blocks - 1) * R::kSums * stride_);
    struct Blocks {
      const ColumnAdder& adder;
      int64_t tiles;
      Deal deal;
      void operator()(int rank, int /*size*/) {
        for (Part part = deal.Next(rank); !part.empty(); part = deal.Next(rank)) {
          for (int64_t item = part.begin; item < part.end; ++item) adder.Block(item / tiles, item % tiles * kTile);
        }
      }
    } add_blocks{*this, tiles, {blocks * tiles, threads, 1}};
    RunTeam(threads, &add_blocks);

    // Complete blocks to the totals, column by column in order.
    const int64_t complete = end_ % block_elements == 0 ? blocks : blocks - 1;
    const int64_t count = R::kSums * stride_;
    for (int64_t b = 0; b < complete; ++b) AddToTotals(BlockSums(b), count, sums);
    if (complete > 0) {
      const bool opened = complete < blocks;
      for (int64_t v = 0; v < count; ++v) sums.open[v] = opened ? BlockSums(blocks - 1)[v] : 0.0;
    }
  }

  // The sums of channels from those of columns; `sums` is used up.
  void Finish(const ColumnSums& sums, const ChannelSums<R::kSums>& out) const {
    const int64_t count = R::kSums * stride_;
    double* column = sums.open;
    if (HasTotals(end_, tensors_.num_channels, tensors_.inner)) {
      AddToTotals(sums.open, count, sums);
#pragma GCC ivdep
      for (int64_t v = 0; v < count; ++v) column[v] = TwoSumValue(sums.total[v], sums.error[v]);
    }
    const int64_t row = tensors_.num_channels * tensors_.inner;
    for (int s = 0; s < R::kSums; ++s, column += stride_) {
      if (width_ == tensors_.num_channels) {
        std::memcpy(out.array[s], column, static_cast<size_t>(width_) * sizeof(double));
        continue;
      }
      for (int64_t c = 0; c < tensors_.num_channels; ++c) {
        double sum = 0;
        double rest = 0;
        for (int64_t v = c * tensors_.inner; v < width_; v += row) {
          for (int64_t i = 0; i < tensors_.inner; ++i) AddTwoSum(column[v + i], &sum, &rest);
        }
        out.array[s][c] = TwoSumValue(sum, rest);
      }
    }
  }

 private:
  double* BlockSums(int64_t block) const {
    return block == 0 ? sums_.open : partial_ + (block - 1) * R::kSums * stride_;
  }

  static void AddToTotals(const double* terms, int64_t count, const ColumnSums& sums) {
    for (int64_t v = 0; v < count; v += order::kLanes) {
      const V16 term = Load(terms + v);
      V16 total = Load(sums.total + v);
      V16 error = Load(sums.error + v);
      Each<kVecs>([&](auto i) { AddTwoSum(term.v[i], &total.v[i], &error.v[i]); });
      Store<false>(total, sums.total + v);
      Store<false>(error, sums.error + v);
    }
  }

  // Columns [v0, v0 + kTile) of a block.
  void Block(int64_t block, int64_t v0) const {
    double* sums = BlockSums(block);
    const int64_t v1 = order::Min(stride_, v0 + kTile);
    for (int s = 0; s < R::kSums && block > 0; ++s) {
      for (int64_t v = v0; v < v1; ++v) sums[s * stride_ + v] = 0;
    }
    const int64_t block_begin = (first_block_ + block) * block_rows_ * width_;
    const int64_t begin = order::Max(begin_, block_begin);
    const int64_t end = order::Min(end_, block_begin + block_rows_ * width_);
    // A piece may begin and end inside of a row.
    int64_t row = begin / width_;
    const int64_t last = end / width_;
    if (begin % width_ != 0) {
      Stretch(row, begin % width_, row == last ? end % width_ : width_, v0, v1, sums);
      if (row == last) return;
      ++row;
    }
    // Chunks reach over the end of a row where the width is no multiple of 16: into the next row, which must be there.
    const int64_t safe = (end_ - (stride_ - width_)) / width_;
    WithCenter<R, T>(centered_,
                     [&]<bool kCentered>() { WholeRows<kCentered>(&row, order::Min(last, safe), v0, v1, sums); });
    for (; row < last; ++row) Stretch(row, 0, width_, v0, v1, sums);
    if (end % width_ != 0) Stretch(last, 0, end % width_, v0, v1, sums);
  }

  // Rows from *row to `end`, or a few less.
  template <bool kCentered>
  void WholeRows(int64_t* row, int64_t end, int64_t v0, int64_t v1, double* sums) const {
    // Not eight rows of two inputs: where rows lie a multiple of 4 KiB apart, 16 lines fall on one set of the first
    // level, which holds 12.
    constexpr int kMost = R::kInputs == 1 ? 8 : 4;
    if (ahead_ == Ahead::kNot) {
      for (; *row + kMost <= end; *row += kMost) Rows<kCentered, kMost, false>(*row * width_ - begin_, v0, v1, sums);
    } else {
      for (; *row + kMost <= end; *row += kMost) Rows<kCentered, kMost, true>(*row * width_ - begin_, v0, v1, sums);
    }
    if constexpr (kMost > 4) {
      for (; *row + 4 <= end; *row += 4) Rows<kCentered, 4, true>(*row * width_ - begin_, v0, v1, sums);
    }
    for (; *row < end; ++*row) Rows<kCentered, 1, true>(*row * width_ - begin_, v0, v1, sums);
  }

  // kCount whole rows, the first of which begins at element `first` of the piece.
  template <bool kCentered, int kCount, bool kAsks>
  void Rows(int64_t first, int64_t v0, int64_t v1, double* sums) const {
    // Copies, which the stores below cannot change.
    const int64_t stride = stride_;
    const double bound = bound_;
    const double* columns[R::kParams];
    Each<R::kParams>([&](auto k) { columns[k] = columns_[k]; });
    const RowPointers<T> rows(width_);
    // The same columns of the next rows or, in a narrow matrix, about kAhead<T> further on.
    const int64_t ahead = order::Max(kCount * width_, width_ * (kAhead<T> / width_));
    // The first level would not keep what comes much later.
    [[maybe_unused]] const bool to_first = ahead_ == Ahead::kToFirstLevel && ahead <= 2 * kAhead<T>;
    const T* at[R::kInputs];
    Each<R::kInputs>([&](auto i) { at[i] = tensors_.in[i] + first + v0; });
    for (int64_t v = v0; v < v1; v += order::kLanes) {
      V16 p[R::kParams];
      V16 acc[R::kSums];
      Each<R::kParams>([&](auto k) { p[k] = Load(columns[k] + v); });
      Each<R::kSums>([&](auto s) { acc[s] = Load(sums + s * stride + v); });
      // The compiler by itself calls it eight times where the loop is too long for its liking.
      Each<kCount>([&](auto r) __attribute__((always_inline)) {
        V16 in[2];
        Each<R::kInputs>([&](auto i) __attribute__((always_inline)) {
          const T* row = rows.template Row<r>(at[i]);
          if (kAsks && to_first) PrefetchChunk<true>(row, ahead);
          if (kAsks && !to_first) PrefetchChunk<false>(row, ahead);
          in[i] = Load(row);
        });
        AddTerms<R, T, kCentered>(in, p, bound, acc);
      });
      Each<R::kSums>([&](auto s) { Store<false>(acc[s], sums + s * stride + v); });
      Each<R::kInputs>([&](auto i) { at[i] = Opaque(at[i] + order::kLanes); });
    }
  }

  // Columns [from, to) of one row, as far as they are in [v0, v1).
  void Stretch(int64_t row, int64_t from, int64_t to, int64_t v0, int64_t v1, double* sums) const {
    to = order::Min(to, v1);
    for (int64_t v = order::Max(from, v0); v < to; v += order::kLanes) {
      const int64_t count = order::Min(order::kLanes, to - v);
      V16 in[2];
      V16 terms[R::kSums];
      V16 p[R::kParams];
      // LoadSome, since the arrays and the piece may end here.
      LoadSomeInputs<R::kInputs>(tensors_, row * width_ + v - begin_, count, in);
      Each<R::kParams>([&](auto k) { p[k] = LoadSome(columns_[k] + v, count); });
      R::template Terms<true>(in, p, bound_, terms);
      Each<R::kSums>([&](auto s) {
        double* at = sums + s * stride_ + v;
        StoreSome(LoadSome(at, count) + terms[s], at, count);
      });
    }
  }

  const Tensors<T>& tensors_;
  const ChannelArrays<R::kParams> params_;
  const double bound_;
  const int64_t width_;
  const int64_t stride_;
  const int64_t block_rows_;
  const int64_t begin_;
  const int64_t end_;
  const bool centered_;
  const double* columns_[R::kParams];
  Ahead ahead_ = Ahead::kNot;
  int64_t first_block_ = 0;
  ColumnSums sums_{};
  double* partial_ = nullptr;
};

}  // namespace normd::kernels::NORMD_KERNELS_ISA
