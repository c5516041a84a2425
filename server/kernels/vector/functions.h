// The functions of implementation.h on top of the walks. Included by kernels_*.cc only; see v16.h.
namespace normd::kernels::NORMD_KERNELS_ISA {

// Bytes of the output, and of inputs and output.
template <typename T>
int64_t OutputBytes(const Tensors<T>& t) {
  return t.elements() * static_cast<int64_t>(sizeof(T));
}
template <typename T>
int64_t AllBytes(const Tensors<T>& t) {
  return (t.in[1] == nullptr ? 2 : 3) * OutputBytes(t);
}

// Whether the output goes past the caches: a large one would push out what else is needed, and each line would be read
// before it is written. A small one stays in the cache for whoever reads it next.
//
// Large is 1.25 MiB of output for each thread; on AMD, 13 MiB of inputs and output: there the third level takes in what
// two threads write, and DRAM, when others use it as well, half of it (docs/performance.md).
template <typename T>
bool Streams(const Tensors<T>& t, int threads) {
  if (t.out == t.in[0] || t.out == t.in[1]) return false;
  return OnAmd() ? AllBytes(t) > (int64_t{13} << 20) * threads : OutputBytes(t) >= (int64_t{5} << 18) * threads;
}

// Fewer threads where a part would be too small to be worth a hand-over even to a thread that waits for it.
inline constexpr int64_t kPartBytes = 256 << 10;
template <typename T>
int UsefulThreads(const Tensors<T>& t, int threads) {
  return static_cast<int>(order::Max(1, order::Min(threads, AllBytes(t) / kPartBytes)));
}

// Calls f<true>() or f<false>().
template <typename F>
void WithStreaming(bool streams, const F& f) {
  if (streams) {
    f.template Run<true>();
  } else {
    f.template Run<false>();
  }
}

template <typename T, typename M>
struct WriteEverything {
  const Tensors<T>& tensors;
  const ChannelArrays<M::kParams>& params;
  double bound;
  int threads;

  template <bool kStream>
  void Run() const {
    if (order::ByRows(tensors.inner)) {
      RowWriter<T, M, kStream> writer(tensors, params, bound, threads);
      RunTeam(threads, &writer);
    } else {
      Scratch scratch;
      ColumnWriter<T, M, kStream> writer(tensors, params, bound, threads, &scratch);
      RunTeam(threads, &writer);
    }
  }
};

template <typename M, typename T>
void Write(const Tensors<T>& tensors, const ChannelArrays<M::kParams>& params, double bound, int threads) {
  const int useful = UsefulThreads(tensors, threads);
  WithStreaming(Streams(tensors, useful), WriteEverything<T, M>{tensors, params, bound, useful});
}

template <typename T, typename R, typename M, typename Finish>
struct SumAndWriteEverything {
  const Tensors<T>& tensors;
  const ChannelArrays<R::kParams>& sum_params;
  const ChannelSums<R::kSums>& sums;
  const ChannelArrays<M::kParams>& value_params;
  double bound;
  const Finish& finish;
  int threads;

  template <bool kStream>
  void Run() const {
    Scratch scratch;
    if (order::ByRows(tensors.inner)) {
      RowWalk<T, R, M, Finish, kStream> walk(tensors, sum_params, sums, value_params, bound, finish, threads);
      walk.SetShared(scratch.Doubles(walk.SharedDoubles()));
      RunTeam(threads, &walk);
      return;
    }
    const int64_t size = ColumnAdder<T, R>::Stride(tensors.num_channels, tensors.inner) * R::kSums;
    const bool totals = HasTotals(tensors.elements(), tensors.num_channels, tensors.inner);
    double* state = scratch.Doubles(3 * size);
    for (int64_t i = 0; i < (totals ? 3 * size : size); ++i) state[i] = 0;
    ColumnAdder<T, R> adder(tensors, 0, sum_params, bound);
    const ColumnSums columns = {state + size, state + 2 * size, state};
    adder.Add(threads, columns);
    adder.Finish(columns, sums);
    finish(0, tensors.num_channels);
    if constexpr (M::kInputs > 0) {
      ColumnWriter<T, M, kStream> writer(tensors, value_params, bound, threads, &scratch);
      RunTeam(threads, &writer);
    }
  }
};

// Sums with R, then `finish`, then writes with M unless that is NoValue.
template <typename R, typename M, typename T, typename Finish>
void SumAndWrite(const Tensors<T>& tensors, const ChannelArrays<R::kParams>& sum_params,
                 const ChannelSums<R::kSums>& sums, const ChannelArrays<M::kParams>& value_params, double bound,
                 const Finish& finish, int threads) {
  const int useful = UsefulThreads(tensors, threads);
  const SumAndWriteEverything<T, R, M, Finish> all = {tensors, sum_params, sums, value_params, bound, finish, useful};
  if constexpr (M::kInputs > 0) {
    WithStreaming(Streams(tensors, useful), all);
  } else {
    all.template Run<false>();
  }
}

inline bool Clips(double clip) { return clip < __builtin_inf(); }

// `values`, or an array full of `missing` if they are null.
inline const double* OrFilled(const double* values, double missing, int64_t count, Scratch* scratch) {
  if (values != nullptr) return values;
  double* filled = scratch->Doubles(count);
  for (int64_t c = 0; c < count; ++c) filled[c] = missing;
  return filled;
}

// (x - mean) * factor is computed as x * factor - mean * factor, an operation less, where the mean is at most so many
// standard deviations large: the rounding error of the product, 2^-53 of it, is then nothing beside that of the element
// type. The choice is each channel's own, so its bits depend on no other's. float64 has no digits to spare.
template <typename T>
inline constexpr double kMostFolded = sizeof(T) < sizeof(double) ? 4096.0 : 0.0;

// What Affine is given for each channel.
struct AffineArrays {
  double* center;
  double* scale;
  double* offset;

  AffineArrays(int64_t count, Scratch* scratch)
      : center(scratch->Doubles(count)), scale(scratch->Doubles(count)), offset(scratch->Doubles(count)) {}

  // y = gamma * (x - mean) * inv_std + beta.
  template <typename T>
  void Make(const double* mean, const double* inv_std, const double* gamma, const double* beta, int64_t c0,
            int64_t c1) const {
#pragma GCC ivdep
    for (int64_t c = c0; c < c1; ++c) {
      const double s = gamma[c] * inv_std[c];
      const double product = mean[c] * s;
      const bool folds = __builtin_fabs(product) <= kMostFolded<T>;
      scale[c] = s;
      center[c] = folds ? 0.0 : mean[c];
      offset[c] = beta[c] - (folds ? product : 0.0);
    }
  }
};

// From sums of (x - shift) to the statistics and, where a y is written, to what it is written with.
template <typename T>
struct FinishBatch {
  const BatchCall& call;
  double n;
  const double* shift;
  const double* sum;
  const double* squares;
  const double* gamma;
  const double* beta;
  // Null: no y.
  double* inv_std;
  const AffineArrays* affine;

  void operator()(int64_t c0, int64_t c1) const {
    MomentsFromSums(shift, sum, squares, n, c0, c1, call.mean, call.var);
    if (inv_std == nullptr) return;
    InverseStd(call.var, c0, c1, call.eps, inv_std);
    affine->template Make<T>(call.mean, inv_std, gamma, beta, c0, c1);
  }
};

template <typename M, typename T>
void SumMoments(const Tensors<T>& tensors, FinishBatch<T>* finish, const ChannelArrays<M::kParams>& value_params,
                int threads, Scratch* scratch) {
  const int64_t channels = tensors.num_channels;
  double* shift = scratch->Doubles(channels);
  double* sum = scratch->Doubles(channels);
  double* squares = scratch->Doubles(channels);
  ShiftFromFirstValues<T>({tensors.in[0], tensors.outer, channels, tensors.inner}, shift);
  finish->n = static_cast<double>(tensors.outer * tensors.inner);
  finish->shift = shift;
  finish->sum = sum;
  finish->squares = squares;
  SumAndWrite<MomentSums, M>(tensors, {{shift}}, {{sum, squares}}, value_params, finish->call.clip, *finish, threads);
}

template <typename T>
void BatchStatistics(const NcsView<const T>& x, int threads, double* mean, double* var) {
  Scratch scratch;
  const BatchCall call = {nullptr, nullptr, 0, 0, mean, var};
  FinishBatch<T> finish = {call, 0, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr};
  const Tensors<T> tensors = {{x.data, nullptr}, nullptr, x.outer, x.num_channels, x.inner};
  SumMoments<NoValue>(tensors, &finish, {}, threads, &scratch);
}

template <typename T>
void NormalizeBatch(const NcsView<const T>& x, const BatchCall& call, int threads, T* y) {
  Scratch scratch;
  const int64_t channels = x.num_channels;
  const double* gamma = OrFilled(call.gamma, 1, channels, &scratch);
  const double* beta = OrFilled(call.beta, 0, channels, &scratch);
  double* inv_std = scratch.Doubles(channels);
  const AffineArrays affine(channels, &scratch);
  FinishBatch<T> finish = {call, 0, nullptr, nullptr, nullptr, gamma, beta, inv_std, &affine};
  const Tensors<T> tensors = {{x.data, nullptr}, y, x.outer, channels, x.inner};
  if (Clips(call.clip)) {
    SumMoments<ClippedAffine>(tensors, &finish, {{call.mean, inv_std, beta, gamma}}, threads, &scratch);
  } else {
    SumMoments<Affine>(tensors, &finish, {{affine.center, affine.scale, affine.offset}}, threads, &scratch);
  }
}

template <typename T>
void Normalize(const NcsView<const T>& x, const RawParams& params, int threads, T* y) {
  Scratch scratch;
  const int64_t channels = x.num_channels;
  const double* gamma = OrFilled(params.gamma, 1, channels, &scratch);
  const double* beta = OrFilled(params.beta, 0, channels, &scratch);
  const Tensors<T> tensors = {{x.data, nullptr}, y, x.outer, channels, x.inner};
  if (Clips(params.clip)) {
    Write<ClippedAffine>(tensors, {{params.mean, params.inv_std, beta, gamma}}, params.clip, threads);
    return;
  }
  const AffineArrays affine(channels, &scratch);
  affine.template Make<T>(params.mean, params.inv_std, gamma, beta, 0, channels);
  Write<Affine>(tensors, {{affine.center, affine.scale, affine.offset}}, 0, threads);
}

template <typename T>
void Denormalize(const NcsView<const T>& y, const RawParams& params, int threads, T* x) {
  Scratch scratch;
  const int64_t channels = y.num_channels;
  const double* gamma = OrFilled(params.gamma, 1, channels, &scratch);
  const double* beta = OrFilled(params.beta, 0, channels, &scratch);
  double* width = scratch.Doubles(channels);
#pragma GCC ivdep
  for (int64_t c = 0; c < channels; ++c) width[c] = 1.0 / (gamma[c] * params.inv_std[c]);
  const Tensors<T> tensors = {{y.data, nullptr}, x, y.outer, channels, y.inner};
  Write<Affine>(tensors, {{beta, width, params.mean}}, 0, threads);
}

// From the sums of gradients to dgamma, dbeta and what dx is written with.
struct FinishBackward {
  const BackwardCall& call;
  double n;
  const double* gamma;
  // What sums[1] is taken from: the mean, or 0. Always the mean with clip.
  const double* center;
  // sum(dy), sum(dy * (x - center)); with clip sum(dy * clamped x_hat) instead, and sum(g), sum(g * x_hat).
  const double* sums[4];
  double* scale;
  double* slope;
  double* offset;

  void operator()(int64_t c0, int64_t c1) const {
    // Plain pointers, all of them read for every channel: a loop without branches.
    const double* const inv_std = call.params.inv_std;
    const double* const mean = call.params.mean;
    double* const dgamma = call.dgamma;
    double* const dbeta = call.dbeta;
    const bool clips = Clips(call.params.clip);
    const double* const g_sum = clips ? sums[2] : sums[0];
    const double* const gx_sum = clips ? sums[3] : sums[1];
    const double per_value = 1.0 / n;
#pragma GCC ivdep
    for (int64_t c = c0; c < c1; ++c) {
      const double m = mean[c];
      const double dy = sums[0][c];
      // A channel whose mean is NaN has no gradient.
      const bool live = m == m;
      const bool folds = center[c] != m;
      const double dy_x = sums[1][c] - (folds ? m * dy : 0.0);
      const double dy_x_hat = clips ? sums[1][c] : dy_x * inv_std[c];
      const double gx = clips ? gx_sum[c] : dy_x_hat;
      dgamma[c] = live ? dy_x_hat : 0.0;
      dbeta[c] = live ? dy : 0.0;
      const double s = gamma[c] * inv_std[c];
      const double per_x = -s * (inv_std[c] * (gx * per_value));
      scale[c] = s;
      slope[c] = per_x;
      offset[c] = -s * (g_sum[c] * per_value) - (folds ? m * per_x : 0.0);
    }
  }
};

inline void ChooseCenters(const RawParams& params, double most_folded, int64_t count, double* center) {
#pragma GCC ivdep
  for (int64_t c = 0; c < count; ++c) {
    const bool folds = __builtin_fabs(params.mean[c] * params.inv_std[c]) <= most_folded;
    center[c] = folds ? 0.0 : params.mean[c];
  }
}

template <typename T>
void ZeroDeadChannels(const Tensors<T>& t, const double* mean) {
  int64_t dead = 0;
  for (int64_t c = 0; c < t.num_channels; ++c) dead += mean[c] != mean[c];
  if (dead == 0) return;
  for (int64_t c = 0; c < t.num_channels; ++c) {
    if (mean[c] == mean[c]) continue;
    for (int64_t o = 0; o < t.outer; ++o) {
      T* row = t.out + (o * t.num_channels + c) * t.inner;
      for (int64_t i = 0; i < t.inner; ++i) row[i] = T{};
    }
  }
}

template <typename T>
void Backward(const NcsView<const T>& x, const T* dy, const BackwardCall& call, int threads, T* dx) {
  Scratch scratch;
  const int64_t channels = x.num_channels;
  const RawParams& params = call.params;
  double* sums[4];
  for (double*& sum : sums) sum = scratch.Doubles(channels);
  const bool clips = Clips(params.clip);
  double* center = scratch.Doubles(channels);
  ChooseCenters(params, clips ? -1.0 : kMostFolded<T>, channels, center);
  double* scale = scratch.Doubles(channels);
  double* slope = scratch.Doubles(channels);
  double* offset = scratch.Doubles(channels);
  const FinishBackward finish = {call,
                                 static_cast<double>(x.ValuesPerChannel()),
                                 OrFilled(params.gamma, 1, channels, &scratch),
                                 center,
                                 {sums[0], sums[1], sums[2], sums[3]},
                                 scale,
                                 slope,
                                 offset};
  const Tensors<T> t = {{x.data, dy}, dx, x.outer, channels, x.inner};
  const double* mean = params.mean;
  const double* inv_std = params.inv_std;
  if (clips) {
    const ChannelArrays<2> from = {{mean, inv_std}};
    const ChannelSums<4> to = {{sums[0], sums[1], sums[2], sums[3]}};
    if (dx == nullptr) {
      SumAndWrite<ClippedGradientSums, NoValue>(t, from, to, {}, params.clip, finish, threads);
    } else if (call.mode == GradientMode::kBatch) {
      SumAndWrite<ClippedGradientSums, ClippedBatchGradient>(t, from, to, {{mean, scale, slope, offset, inv_std}},
                                                             params.clip, finish, threads);
    } else {
      SumAndWrite<ClippedGradientSums, ConstantGradient<true>>(t, from, to, {{scale, mean, inv_std}}, params.clip,
                                                               finish, threads);
    }
  } else {
    const ChannelArrays<1> from = {{center}};
    const ChannelSums<2> to = {{sums[0], sums[1]}};
    if (dx == nullptr) {
      SumAndWrite<GradientSums, NoValue>(t, from, to, {}, 0, finish, threads);
    } else if (call.mode == GradientMode::kBatch) {
      SumAndWrite<GradientSums, BatchGradient>(t, from, to, {{center, scale, slope, offset}}, 0, finish, threads);
    } else {
      SumAndWrite<GradientSums, ConstantGradient<false>>(t, from, to, {{scale}}, 0, finish, threads);
    }
  }
  if (dx != nullptr) ZeroDeadChannels(t, mean);
}

inline void InverseStdOf(const double* var, int64_t count, double eps, double* inv_std) {
  InverseStd(var, 0, count, eps, inv_std);
}

template <typename T>
constexpr Functions<T> FunctionsFor() {
  return {&BatchStatistics<T>, &NormalizeBatch<T>, &Normalize<T>, &Denormalize<T>, &Backward<T>, &AddMoments<T>};
}

constexpr Implementation MakeImplementation(const char* name, bool (*supported)()) {
  return {
      .name = name,
      .supported = supported,
      .f32 = FunctionsFor<float>(),
      .f64 = FunctionsFor<double>(),
      .f16 = FunctionsFor<Float16>(),
      .bf16 = FunctionsFor<BFloat16>(),
      .inverse_std = &InverseStdOf,
      .moments_sizes = &MomentsSizes,
      .finish_moments = &FinishMoments,
  };
}

}  // namespace normd::kernels::NORMD_KERNELS_ISA
