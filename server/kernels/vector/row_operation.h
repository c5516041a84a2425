// What is done to rows, each of which belongs to one channel: summed, written, or both at once. Walked by rows.h.
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

}  // namespace normd::kernels::NORMD_KERNELS_ISA
