// Means and variances from sums, and sums of a tensor in pieces. Included by kernels_*.cc only; see v16.h.
namespace normd::kernels::NORMD_KERNELS_ISA {

// Sums are taken from the first value of a channel: they are then 0 where the channel is constant, and small against
// the mean where that is large.
template <typename T>
void ShiftFromFirstValues(const NcsView<const T>& x, double* shift) {
  for (int64_t c = 0; c < x.num_channels; ++c) {
    const double first = ToDouble(x.data[c * x.inner]);
    shift[c] = IsFinite(first) ? first : 0.0;
  }
}

// With sum = sum(x - shift), squares = sum((x - shift)^2) over n values. An infinity makes the mean infinite and the
// variance NaN.
inline void MomentsFromSums(const double* shift, const double* sum, const double* squares, double n, int64_t c0,
                            int64_t c1, double* mean, double* var) {
#pragma GCC ivdep
  for (int64_t c = c0; c < c1; ++c) {
    const double offset = sum[c] / n;
    const double m2 = squares[c] - sum[c] * offset;
    mean[c] = shift[c] + offset;
    var[c] = (m2 < 0 ? 0.0 : m2) / n;
  }
}

inline void InverseStd(const double* var, int64_t c0, int64_t c1, double eps, double* inv_std) {
#pragma GCC ivdep
  for (int64_t c = c0; c < c1; ++c) {
    const double widened = var[c] + eps;
    const double inverse = 1.0 / __builtin_sqrt(widened);
    inv_std[c] = widened == 0 ? 0.0 : inverse;
  }
}

// Adds a piece of a tensor with long rows: channels are dealt out to the threads.
template <typename T>
class RowAdder {
 public:
  RowAdder(const Tensors<T>& piece, MomentsState* state)
      : operation_(piece, {{state->shift}}, {}, 0), piece_(piece), state_(*state), blocks_(1, piece.inner) {}

  void operator()(int rank, int size) const {
    const Part channels(piece_.num_channels, rank, size);
    for (int64_t o = 0; o < piece_.outer; ++o) {
      for (int64_t p = 0; p < blocks_.pieces; ++p) {
        for (int64_t c = channels.begin; c < channels.end; ++c) {
          const int64_t from = p * order::kBlockValues;
          const int64_t begin = (o * piece_.num_channels + c) * piece_.inner + from;
          const int64_t length = order::Min(piece_.inner - from, order::kBlockValues);
          operation_.Sum({begin, c, 1}, length, begin + length, Lanes(c));
        }
        const bool complete = blocks_.pieces > 1 || (state_.outer + o + 1) % blocks_.rows == 0;
        for (int64_t c = channels.begin; complete && c < channels.end; ++c) CloseBlock(c, state_.totals, Lanes(c));
      }
    }
  }

  // Adds the lanes of channel c to its totals and clears them.
  static void CloseBlock(int64_t c, double* totals, double* lanes) {
    for (int s = 0; s < MomentSums::kSums; ++s) {
      double* total = totals + 2 * (c * MomentSums::kSums + s);
      AddTwoSum(AddLanes(Load(lanes + s * order::kLanes)), &total[0], &total[1]);
      Store<false>(V16{}, lanes + s * order::kLanes);
    }
  }

 private:
  double* Lanes(int64_t c) const { return state_.open + c * MomentSums::kSums * order::kLanes; }

  const RowOperation<T, MomentSums, NoValue> operation_;
  const Tensors<T>& piece_;
  const MomentsState& state_;
  const RowBlocks blocks_;
};

inline void MomentsSizes(int64_t num_channels, int64_t inner, int64_t* open, int64_t* totals) {
  if (order::ByRows(inner)) {
    *open = num_channels * MomentSums::kSums * order::kLanes;
    *totals = num_channels * MomentSums::kSums * 2;
  } else {
    const int64_t stride = ColumnAdder<float, MomentSums>::Stride(num_channels, inner);
    *open = stride * MomentSums::kSums;
    *totals = 2 * *open;
  }
}

template <typename T>
void AddMoments(const NcsView<const T>& piece, int threads, MomentsState* state) {
  if (state->outer == 0) ShiftFromFirstValues(piece, state->shift);
  const Tensors<T> tensors = {{piece.data, nullptr}, nullptr, piece.outer, piece.num_channels, piece.inner};
  if (order::ByRows(piece.inner)) {
    RowAdder<T> adder(tensors, state);
    RunTeam(threads, &adder);
  } else {
    const int64_t done = state->outer * piece.num_channels * piece.inner;
    ColumnAdder<T, MomentSums> adder(tensors, done, {{state->shift}}, 0);
    const int64_t size = ColumnAdder<T, MomentSums>::Stride(piece.num_channels, piece.inner) * MomentSums::kSums;
    adder.Add(threads, {state->totals, state->totals + size, state->open});
  }
  state->outer += piece.outer;
}

inline void CopyDoubles(const double* from, int64_t count, double* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = from[i];
}

inline void FinishMoments(const FinishedMoments& state, double* mean, double* var) {
  Scratch scratch;
  int64_t open_size = 0;
  int64_t totals_size = 0;
  MomentsSizes(state.num_channels, state.inner, &open_size, &totals_size);
  double* open = scratch.Doubles(open_size);
  double* totals = scratch.Doubles(totals_size);
  CopyDoubles(state.open, open_size, open);
  CopyDoubles(state.totals, totals_size, totals);
  double* sum = scratch.Doubles(state.num_channels);
  double* squares = scratch.Doubles(state.num_channels);
  if (order::ByRows(state.inner)) {
    for (int64_t c = 0; c < state.num_channels; ++c) {
      RowAdder<float>::CloseBlock(c, totals, open + c * MomentSums::kSums * order::kLanes);
      const double* total = totals + 2 * c * MomentSums::kSums;
      sum[c] = TwoSumValue(total[0], total[1]);
      squares[c] = TwoSumValue(total[2], total[3]);
    }
  } else {
    const Tensors<float> shape = {{nullptr, nullptr}, nullptr, state.outer, state.num_channels, state.inner};
    ColumnAdder<float, MomentSums>(shape, 0, {}, 0).Finish({totals, totals + open_size, open}, {{sum, squares}});
  }
  const auto n = static_cast<double>(state.outer * state.inner);
  MomentsFromSums(state.shift, sum, squares, n, 0, state.num_channels, mean, var);
}

}  // namespace normd::kernels::NORMD_KERNELS_ISA
