// Walks over an (outer, C, inner) view with inner >= order::kMinRow, whose every row (o, c, :) belongs to one channel.
// Included by kernels_*.cc only; see v16.h.
namespace normd::kernels::NORMD_KERNELS_ISA {

// Rows of consecutive channels of one `o`, or the same piece of each: row k is [begin + k * inner, + length).
struct Run {
  int64_t begin;
  int64_t channel;
  int64_t count;
};

// Sums with R and writes with M, run by run.
template <typename T, typename R, typename M>
class RowOperation {
 public:
  RowOperation(const Tensors<T>& tensors, const ChannelArrays<R::kParams>& sum_params,
               const ChannelArrays<M::kParams>& value_params, double bound)
      : tensors_(tensors), sum_params_(sum_params), value_params_(value_params), bound_(bound), grid_(tensors.out) {}

  // Adds a run to the lanes of its channels (kSums * kLanes doubles for each). `next`: where the run after it begins.
  void Sum(const Run& run, int64_t length, int64_t next, double* lanes) const {
    Adder adder(*this, run, length, next, lanes);
    for (int64_t k = 0; k < run.count; ++k) {
      adder.BeginRow();
      adder.FinishRow();
    }
  }

  // The elements of a run of whole rows, or of one piece (`length` < inner, count 1).
  // first: whether nobody has written the elements before the first chunk of the grid.
  // joined: whether at least 16 elements of the same channel follow, which the same thread writes next.
  template <bool kStream>
  void Write(const Run& run, int64_t length, bool first, bool joined) const {
    Writer<kStream> writer(*this, run, length, first);
    for (int64_t k = 0; k < run.count; ++k) {
      writer.BeginRow();
      for (int64_t chunks = writer.chunks(); chunks > 0; --chunks) {
        writer.PrefetchAhead();
        writer.Step();
      }
      writer.FinishRow(k + 1 < run.count, joined);
    }
  }

  // Both at once, chunk by chunk: while the one waits for memory the other computes, and reads and writes overlap.
  template <bool kStream>
  void SumAndWrite(const Run& sum, int64_t next, double* lanes, const Run& write, int64_t length, bool first,
                   bool joined) const {
    Adder adder(*this, sum, length, next, lanes);
    Writer<kStream> writer(*this, write, length, first);
    const int64_t count = order::Max(sum.count, write.count);
    for (int64_t k = 0; k < count; ++k) {
      if (k < sum.count) adder.BeginRow();
      if (k < write.count) {
        writer.BeginRow();
        if (k < sum.count) {
          const int64_t both = order::Min(writer.chunks(), adder.chunks());
          const int64_t turn = order::Min(both, adder.chunks_to_turn());
          int64_t i = 0;
          for (; i < turn; ++i) {
            adder.PrefetchAhead();
            writer.Step();
            adder.Step();
          }
          for (; i < both; ++i) {
            adder.PrefetchNext();
            writer.Step();
            adder.Step();
          }
        }
        writer.FinishRow(k + 1 < write.count, joined);
      }
      if (k < sum.count) adder.FinishRow();
    }
  }

 private:
  template <bool kStream>
  class Writer {
   public:
    [[gnu::always_inline]] Writer(const RowOperation& op, const Run& run, int64_t length, bool first)
        : op_(op), tensors_(op.tensors_), length_(length), begin_(run.begin), at_(run.begin), channel_(run.channel) {
      LoadParams(channel_, params_);
      centered_ = HasCenter(channel_);
      if (!first) {
        at_ = op.grid_.Up(at_);
        return;
      }
      const int64_t aligned = order::Min(op.grid_.Up(at_), begin_ + length_);
      if (aligned > at_) WriteSome<M, true>(tensors_, at_, aligned - at_, params_, op_.bound_);
      at_ = aligned;
    }
    [[gnu::always_inline]] void BeginRow() {
      row_end_ = begin_ + length_;
      end_ = order::Max(at_, op_.grid_.Down(row_end_));
    }
    int64_t chunks() const { return (end_ - at_) / order::kLanes; }
    [[gnu::always_inline]] void PrefetchAhead() const {
      Each<M::kInputs>([&](auto i) { PrefetchChunk<false>(tensors_.in[i], at_ + kAhead<T>); });
    }
    [[gnu::always_inline]] void Step() {
      V16 in[2];
      LoadInputs<M::kInputs>(tensors_, at_, in);
      WithCenter<M, T>(
          centered_, [&]<bool kCentered>() __attribute__((always_inline)) {
            Store<kStream>(M::template Value<kCentered>(in, params_, op_.bound_), tensors_.out + at_);
          });
      at_ += order::kLanes;
    }
    // The rest of a row. more: another row of the run follows.
    [[gnu::always_inline]] void FinishRow(bool more, bool joined) {
      while (at_ < end_) Step();
      const int64_t left = row_end_ - at_;
      if (more) {
        // The chunk that holds the end of this row and the beginning of the next one.
        channel_ = channel_ + 1 == tensors_.num_channels ? 0 : channel_ + 1;
        V16 next[kMaxParams];
        LoadParams(channel_, next);
        if (left > 0) {
          Each<M::kParams>([&](auto k) { params_[k] = FirstLanes(left, params_[k], next[k]); });
          centered_ = true;
          Step();
        }
        Each<M::kParams>([&](auto k) { params_[k] = next[k]; });
        centered_ = HasCenter(channel_);
        begin_ += tensors_.inner;
      } else if (left > 0) {
        if (joined) {
          Step();
        } else {
          WriteSome<M, true>(tensors_, at_, left, params_, op_.bound_);
        }
      }
    }

   private:
    static constexpr int kMaxParams = M::kParams == 0 ? 1 : M::kParams;

    bool HasCenter(int64_t channel) const { return !kMaySkipCenter<M, T> || op_.value_params_.array[0][channel] != 0; }
    [[gnu::always_inline]] void LoadParams(int64_t channel, V16* params) const {
      Each<M::kParams>([&](auto k) { params[k] = Set1(op_.value_params_.array[k][channel]); });
    }

    const RowOperation& op_;
    const Tensors<T> tensors_;
    const int64_t length_;
    // Of the row.
    int64_t begin_;
    int64_t row_end_ = 0;
    // The next chunk, and the end of the row's whole ones.
    int64_t at_;
    int64_t end_ = 0;
    int64_t channel_;
    // Whether there is something to take off: params_[0] is not 0, or not a center.
    bool centered_;
    V16 params_[kMaxParams];
  };

  class Adder {
   public:
    [[gnu::always_inline]] Adder(const RowOperation& op, const Run& run, int64_t length, int64_t next, double* lanes)
        : op_(op), tensors_(op.tensors_), length_(length), begin_(run.begin), channel_(run.channel), lanes_(lanes) {
      // Rows of a run follow each other, unless it is one piece of each.
      run_end_ = run.begin + (length == tensors_.inner ? run.count * length : length);
      ahead_ = order::Min(kAhead<T>, run_end_ - run.begin);
      to_next_ = next - run_end_ + ahead_;
      tail_ = LaneMask(length % order::kLanes);
    }
    [[gnu::always_inline]] void BeginRow() {
      at_ = begin_;
      end_ = begin_ + length_;
      Each<R::kParams>([&](auto k) { params_[k] = Set1(op_.sum_params_.array[k][channel_]); });
      centered_ = !kMaySkipCenter<R, T> || op_.sum_params_.array[0][channel_] != 0;
      Each<R::kSums>([&](auto s) { sums_[s] = Load(lanes_ + s * order::kLanes); });
    }
    int64_t chunks() const { return (end_ - at_) / order::kLanes; }
    // Chunks before what is ahead lies in the next run.
    int64_t chunks_to_turn() const { return order::Max(0, (run_end_ - ahead_ - at_) / order::kLanes); }
    [[gnu::always_inline]] void PrefetchAhead() const {
      Each<R::kInputs>([&](auto i) { PrefetchChunk<false>(tensors_.in[i], at_ + ahead_); });
    }
    [[gnu::always_inline]] void PrefetchNext() const {
      Each<R::kInputs>([&](auto i) { PrefetchChunk<false>(tensors_.in[i], at_ + to_next_); });
    }
    [[gnu::always_inline]] void Step() {
      V16 in[2];
      LoadInputs<R::kInputs>(tensors_, at_, in);
      WithCenter<R, T>(
          centered_, [&]<bool kCentered>()
                         __attribute__((always_inline)) { AddTerms<R, T, kCentered>(in, params_, op_.bound_, sums_); });
      at_ += order::kLanes;
    }
    [[gnu::always_inline]] void FinishRow() {
      const int64_t left = chunks();
      const int64_t turn = order::Min(left, chunks_to_turn());
      int64_t i = 0;
      for (; i < turn; ++i) {
        PrefetchAhead();
        Step();
      }
      for (; i < left; ++i) {
        PrefetchNext();
        Step();
      }
      if (at_ < end_) Tail(end_ - at_);
      Each<R::kSums>([&](auto s) { Store<false>(sums_[s], lanes_ + s * order::kLanes); });
      lanes_ += R::kSums * order::kLanes;
      begin_ += tensors_.inner;
      ++channel_;
    }

   private:
    // The last, incomplete chunk: what a lane does not have adds +0, which changes no bit of a sum that began with +0.
    [[gnu::always_inline]] void Tail(int64_t count) {
      V16 in[2];
      V16 terms[R::kSums];
      if (at_ + order::kLanes <= run_end_) {
        LoadInputs<R::kInputs>(tensors_, at_, in);
      } else {
        LoadSomeInputs<R::kInputs>(tensors_, at_, count, in);
      }
      R::template Terms<true>(in, params_, op_.bound_, terms);
      Each<R::kSums>([&](auto s) { sums_[s] = sums_[s] + ZeroOutside(tail_, terms[s]); });
    }

    const RowOperation& op_;
    const Tensors<T> tensors_;
    const int64_t length_;
    int64_t run_end_;
    int64_t ahead_;
    int64_t to_next_;
    M16 tail_;
    int64_t begin_;
    int64_t at_ = 0;
    int64_t end_ = 0;
    int64_t channel_;
    double* lanes_;
    bool centered_ = false;
    V16 params_[R::kParams];
    V16 sums_[R::kSums];
  };

  const Tensors<T>& tensors_;
  const ChannelArrays<R::kParams> sum_params_;
  const ChannelArrays<M::kParams> value_params_;
  const double bound_;
  const Grid<T> grid_;
};

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
