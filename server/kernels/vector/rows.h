// Walks over an (outer, C, inner) view with inner >= order::kMinRow, whose every row (o, c, :) belongs to one channel.
// Included by kernels_*.cc only; see v16.h.
namespace normd::kernels::NORMD_KERNELS_ISA {

// Where the reduction blocks of order.h lie in a channel.
struct RowBlocks {
  RowBlocks(int64_t outer_rows, int64_t row)
      : outer(outer_rows),
        inner(row),
        pieces(order::Pieces(row)),
        rows(order::BlockRows(row)),
        count(pieces > 1 ? outer * pieces : order::CeilDiv(outer, rows)) {}

  int64_t FirstRow(int64_t block) const { return pieces > 1 ? block / pieces : block * rows; }
  int64_t LastRow(int64_t block) const {
    return pieces > 1 ? block / pieces + 1 : order::Min(outer, (block + 1) * rows);
  }
  int64_t Begin(int64_t block) const { return pieces > 1 ? block % pieces * order::kBlockValues : 0; }
  int64_t End(int64_t block) const {
    return pieces > 1 ? order::Min(inner, Begin(block) + order::kBlockValues) : inner;
  }

  int64_t outer;
  int64_t inner;
  int64_t pieces;
  int64_t rows;
  int64_t count;
};

// Bytes of the tensors that a group of channels should have: small enough to be found in the second-level cache when
// they are written, large enough for long reads.
inline constexpr int64_t kGroupBytes = 128 << 10;
inline constexpr int64_t kMaxGroup = 64;
// Channels larger than this are shared by the threads, so that each one's part stays in its cache.
inline constexpr int64_t kSharedBytes = 512 << 10;

// Sums every channel with R, lets `Finish` turn the sums into parameters, and writes with M: one walk in which the
// writing follows the summing by a group of channels, so that memory is read once. NoValue: only the sums.
// Finish: operator()(int64_t c0, int64_t c1) for channels [c0, c1), on any thread.
template <typename T, typename R, typename M, typename Finish, bool kStream>
class RowWalk {
 public:
  RowWalk(const Tensors<T>& tensors, const ChannelArrays<R::kParams>& sum_params, const ChannelSums<R::kSums>& sums,
          const ChannelArrays<M::kParams>& value_params, double bound, const Finish& finish, int threads)
      : operation_(tensors, sum_params, value_params, bound),
        tensors_(tensors),
        sums_(sums),
        finish_(finish),
        blocks_(tensors.outer, tensors.inner),
        shared_(threads > 1 && (ChannelBytes() > kSharedBytes || tensors.num_channels < 4 * threads)),
        group_(GroupSize(threads)),
        deal_(order::CeilDiv(tensors.num_channels, group_), threads, 1) {}

  // Doubles that the members of a team share, to be given to Run.
  int64_t SharedDoubles() const { return shared_ ? blocks_.count * group_ * R::kSums : 1; }
  void SetShared(double* partial) { partial_ = partial; }

  void operator()(int rank, int size) {
    Scratch scratch;
    double* lanes = scratch.Doubles(group_ * R::kSums * order::kLanes);
    double* totals = scratch.Doubles(group_ * R::kSums * 2);
    const Part blocks = shared_ ? Part(blocks_.count, rank, size) : Part(blocks_.count, 0, 1);
    // Summed, and not yet written.
    int64_t summed = -1;
    const auto take = [&](const Part& groups) {
      for (int64_t g = groups.begin; g < groups.end; ++g) {
        Clear(totals, group_ * R::kSums * 2);
        for (int64_t b = blocks.begin; b < blocks.end; ++b) {
          Clear(lanes, group_ * R::kSums * order::kLanes);
          Block(g, summed, b, blocks, lanes);
          TakeBlock(g, b, lanes, totals);
        }
        FinishGroup(g, rank, totals);
        summed = g;
      }
    };
    if (shared_) {
      take({0, order::CeilDiv(tensors_.num_channels, group_)});
    } else {
      for (Part groups = deal_.Next(rank); !groups.empty(); groups = deal_.Next(rank)) take(groups);
    }
    if constexpr (kWrites) {
      for (int64_t b = blocks.begin; b < blocks.end && summed >= 0; ++b) Block(-1, summed, b, blocks, lanes);
      if (kStream) FinishStreaming();
    }
  }

 private:
  static constexpr bool kWrites = M::kInputs > 0;

  static void Clear(double* p, int64_t count) {
    for (int64_t i = 0; i < count; ++i) p[i] = 0;
  }

  int64_t ChannelBytes() const {
    return R::kInputs * tensors_.outer * tensors_.inner * static_cast<int64_t>(sizeof(T));
  }

  int64_t GroupSize(int threads) const {
    const int64_t bytes = shared_ ? threads * kGroupBytes : kGroupBytes;
    int64_t group = order::Max(1, order::Min(kMaxGroup, bytes / order::Max(1, ChannelBytes())));
    if (!shared_) group = order::Max(1, order::Min(group, tensors_.num_channels / (4 * threads)));
    // Groups that end on a chunk, where it can be had.
    int64_t whole = 1;
    while (whole < order::kLanes && whole * tensors_.inner % order::kLanes != 0) whole *= 2;
    return whole * ChannelBytes() <= 2 * kGroupBytes ? order::RoundUp(group, whole) : group;
  }

  int64_t FirstChannel(int64_t group) const { return group * group_; }
  int64_t Channels(int64_t group) const {
    return group < 0 ? 0 : order::Min(group_, tensors_.num_channels - FirstChannel(group));
  }

  // Block b of the channels of group `sum` and, of the same rows, those of group `write`; -1 means none.
  void Block(int64_t sum, int64_t write, int64_t b, const Part& mine, double* lanes) const {
    const int64_t begin = blocks_.Begin(b);
    const int64_t length = blocks_.End(b) - begin;
    const int64_t row = tensors_.num_channels * tensors_.inner;
    for (int64_t o = blocks_.FirstRow(b); o < blocks_.LastRow(b); ++o) {
      const int64_t at = o * row + begin;
      const Run summed = {at + FirstChannel(sum) * tensors_.inner, FirstChannel(sum), Channels(sum)};
      const Run written = {at + FirstChannel(write) * tensors_.inner, FirstChannel(write),
                           kWrites ? Channels(write) : 0};
      if (blocks_.pieces == 1) {
        Rows(summed, summed.begin + row, lanes, written, length, true, false);
        continue;
      }
      // Pieces of one row follow each other, if the same thread has both and the next one is long enough.
      const bool joins_last = begin > 0 && b > mine.begin && length >= order::kLanes;
      const bool joins_next = b + 1 < mine.end && tensors_.inner - begin - length >= order::kLanes;
      const int64_t next = begin + length < tensors_.inner ? length : row - begin;
      for (int64_t k = 0; k < order::Max(summed.count, written.count); ++k) {
        const auto piece = [&](const Run& run) -> Run {
          return {run.begin + k * tensors_.inner, run.channel + k, k < run.count ? 1 : 0};
        };
        Rows(piece(summed), summed.begin + k * tensors_.inner + next, lanes + k * R::kSums * order::kLanes,
             piece(written), length, !joins_last, joins_next);
      }
    }
  }

  [[gnu::always_inline]] void Rows(const Run& sum, int64_t next, double* lanes, const Run& write, int64_t length,
                                   bool first, bool joined) const {
    if constexpr (kWrites) {
      if (sum.count > 0 && write.count > 0) {
        operation_.template SumAndWrite<kStream>(sum, next, lanes, write, length, first, joined);
        return;
      }
      if (write.count > 0) operation_.template Write<kStream>(write, length, first, joined);
    }
    if (sum.count > 0) operation_.Sum(sum, length, next, lanes);
  }

  // The sums of a finished block.
  void TakeBlock(int64_t group, int64_t b, const double* lanes, double* totals) const {
    const int64_t count = Channels(group) * R::kSums;
    for (int64_t k = 0; k < count; ++k) {
      const double sum = AddLanes(Load(lanes + k * order::kLanes));
      if (shared_) {
        partial_[b * group_ * R::kSums + k] = sum;
      } else {
        AddTwoSum(sum, &totals[2 * k], &totals[2 * k + 1]);
      }
    }
  }

  void FinishGroup(int64_t group, int rank, double* totals) const {
    const int64_t count = Channels(group) * R::kSums;
    if (shared_) {
      TeamBarrier();
      for (int64_t b = 0; rank == 0 && b < blocks_.count; ++b) {
        for (int64_t k = 0; k < count; ++k) {
          AddTwoSum(partial_[b * group_ * R::kSums + k], &totals[2 * k], &totals[2 * k + 1]);
        }
      }
    }
    if (!shared_ || rank == 0) {
      const int64_t c0 = FirstChannel(group);
      for (int64_t k = 0; k < count; ++k) {
        sums_.array[k % R::kSums][c0 + k / R::kSums] = TwoSumValue(totals[2 * k], totals[2 * k + 1]);
      }
      finish_(c0, c0 + Channels(group));
    }
    if (shared_) TeamBarrier();
  }

  const RowOperation<T, R, M> operation_;
  const Tensors<T>& tensors_;
  const ChannelSums<R::kSums> sums_;
  const Finish& finish_;
  const RowBlocks blocks_;
  const bool shared_;
  // Channels of a group.
  const int64_t group_;
  // Of groups, unless they are shared.
  Deal deal_;
  double* partial_ = nullptr;
};

// Writes everything with M, row after row: no sums, so the order of memory is best.
template <typename T, typename M, bool kStream>
class RowWriter {
 public:
  RowWriter(const Tensors<T>& tensors, const ChannelArrays<M::kParams>& params, double bound, int threads)
      : operation_(tensors, {}, params, bound),
        tensors_(tensors),
        rows_(tensors.outer * tensors.num_channels),
        deal_(rows_, threads, order::CeilDiv(kGroupBytes / static_cast<int64_t>(sizeof(T)), tensors.inner)) {}

  void operator()(int rank, int size) {
    if (rows_ >= 4 * size) {
      for (Part rows = deal_.Next(rank); !rows.empty(); rows = deal_.Next(rank)) {
        const Run run = {rows.begin * tensors_.inner, rows.begin % tensors_.num_channels, rows.end - rows.begin};
        operation_.template Write<kStream>(run, tensors_.inner, true, false);
      }
    } else {
      // Few rows are cut.
      for (int64_t row = 0; row < rows_; ++row) {
        const Part mine(tensors_.inner, rank, size);
        const Run run = {row * tensors_.inner + mine.begin, row % tensors_.num_channels, 1};
        if (mine.end > mine.begin) operation_.template Write<kStream>(run, mine.end - mine.begin, true, false);
      }
    }
    if (kStream) FinishStreaming();
  }

 private:
  const RowOperation<T, NoSums, M> operation_;
  const Tensors<T>& tensors_;
  const int64_t rows_;
  Deal deal_;
};

}  // namespace normd::kernels::NORMD_KERNELS_ISA
