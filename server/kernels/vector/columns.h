// Walks over an (outer, C, inner) view with inner < order::kMinRow in the order of memory: a matrix whose columns
// belong to channels. Included by kernels_*.cc only; see v16.h.
namespace normd::kernels::NORMD_KERNELS_ISA {

// Columns that are worked on together: their sums and parameters stay in the first-level cache.
inline constexpr int64_t kTile = 1024;

// out[v] = the value of v's channel, for `width` columns.
inline void SpreadToColumns(const double* per_channel, int64_t num_channels, int64_t inner, int64_t width,
                            double* out) {
  if (inner == 1) {
    for (int64_t v = 0; v < width; v += num_channels) {
      const int64_t count = order::Min(num_channels, width - v);
      std::memcpy(out + v, per_channel, static_cast<size_t>(count) * sizeof(double));
    }
    return;
  }
  int64_t v = 0;
  while (v < width) {
    for (int64_t c = 0; c < num_channels && v < width; ++c) {
      for (int64_t i = 0; i < inner && v < width; ++i) out[v++] = per_channel[c];
    }
  }
}

// Whether an operation has a center to take off.
inline bool AnyCenter(const double* center, int64_t num_channels) {
  int64_t count = 0;
  for (int64_t c = 0; c < num_channels; ++c) count += center[c] != 0;
  return count > 0;
}

// Writes everything with M.
template <typename T, typename M, bool kStream>
class ColumnWriter {
 public:
  ColumnWriter(const Tensors<T>& tensors, const ChannelArrays<M::kParams>& params, double bound, int threads,
               Scratch* scratch)
      : tensors_(tensors),
        bound_(bound),
        grid_(tensors.out),
        first_(order::Min(tensors.elements(), grid_.Up(0))),
        last_(order::Max(first_, grid_.Down(tensors.elements()))),
        chunks_((last_ - first_) / order::kLanes),
        deal_(chunks_, threads, kLeastChunks) {
    // Short rows are put together, but no more than there are.
    const int64_t row = tensors.num_channels * tensors.inner;
    width_ = row * order::Max(1, order::Min(order::CeilDiv(256, row), tensors.outer));
    // Wraps around, so that a chunk over the end of a row finds the parameters of the next one.
    const int64_t length = width_ + order::kLanes;
    centered_ = !kMaySkipCenter<M, T> || AnyCenter(params.array[0], tensors.num_channels);
    for (int k = 0; k < M::kParams; ++k) {
      double* spread = scratch->Doubles(length);
      if (k > 0 || centered_) SpreadToColumns(params.array[k], tensors.num_channels, tensors.inner, length, spread);
      columns_[k] = spread;
    }
  }

  void operator()(int rank, int size) {
    if (rank == 0) Some(0, first_);
    if (rank == size - 1) Some(last_, tensors_.elements());
    // Each share from its end, which the sums before have left in cache: chunks are dealt as if counted from the last
    // one.
    const int mirrored = size - 1 - rank;
    for (Part part = deal_.Next(mirrored); !part.empty(); part = deal_.Next(mirrored)) {
      const int64_t begin = chunks_ - part.end;
      for (int64_t end = chunks_ - part.begin; end > begin;) {
        const int64_t stretch = order::Max(begin, end - kStretchChunks);
        const int64_t first = first_ + stretch * order::kLanes;
        const int64_t last = first_ + end * order::kLanes;
        WithCenter<M, T>(centered_, [&]<bool kCentered>() {
          if (OnAmd()) {
            Chunks<kCentered, false>(first, last);
          } else {
            Chunks<kCentered, true>(first, last);
          }
        });
        end = stretch;
      }
    }
    if (kStream) FinishStreaming();
  }

 private:
  static constexpr int64_t kStretchChunks = (1 << 20) / (order::kLanes * static_cast<int64_t>(sizeof(T)));
  static constexpr int64_t kLeastChunks = kStretchChunks / 16;

  // Elements [begin, end), on the grid.
  template <bool kCentered, bool kAsks>
  void Chunks(int64_t begin, int64_t end) const {
    if (width_ <= kTile || end - begin < 4 * width_) {
      Walk<kCentered, kAsks>(begin, end, 0, width_);
      return;
    }
    // Wide rows in tiles, whose parameters stay in the first-level cache.
    for (int64_t v = 0; v < width_; v += kTile) Walk<kCentered, kAsks>(begin, end, v, order::Min(width_, v + kTile));
  }

  // The chunks of [begin, end) that begin in columns [v0, v1).
  template <bool kCentered, bool kAsks>
  void Walk(int64_t begin, int64_t end, int64_t v0, int64_t v1) const {
    // Copies, which the stores below cannot change.
    const Tensors<T> tensors = tensors_;
    const Grid<T> grid = grid_;
    const int64_t width = width_;
    const double bound = bound_;
    const double* columns[M::kParams];
    Each<M::kParams>([&](auto k) { columns[k] = columns_[k]; });
    const int64_t skipped = width - (v1 - v0);
    int64_t row = begin / width * width;
    for (int64_t e = begin; e < end; row += width) {
      // The first chunk at or behind column v0 of this row.
      e = order::Max(e, grid.Up(row + v0));
      const int64_t stop = order::Min(end, row + v1);
      [[maybe_unused]] const int64_t turn = stop - kAhead<T>;
      for (; e < stop; e += order::kLanes) {
        V16 in[2];
        V16 p[M::kParams];
        if constexpr (kAsks) {
          const int64_t ahead = e + kAhead<T> + (e < turn ? 0 : skipped);
          Each<M::kInputs>([&](auto i) { PrefetchChunk<false>(tensors.in[i], ahead); });
        }
        LoadInputs<M::kInputs>(tensors, e, in);
        Each<M::kParams>([&](auto k) { p[k] = Load(columns[k] + (e - row)); });
        Store<kStream>(M::template Value<kCentered>(in, p, bound), tensors.out + e);
      }
    }
  }

  // The less than 16 elements before and behind the grid's chunks.
  void Some(int64_t begin, int64_t end) const {
    if (begin == end) return;
    V16 p[M::kParams];
    Each<M::kParams>([&](auto k) { p[k] = Load(columns_[k] + begin % width_); });
    WithCenter<M, T>(centered_,
                     [&]<bool kCentered>() { WriteSome<M, kCentered>(tensors_, begin, end - begin, p, bound_); });
  }

  const Tensors<T>& tensors_;
  const double bound_;
  const Grid<T> grid_;
  // The elements that lie in whole chunks of the grid.
  const int64_t first_;
  const int64_t last_;
  const int64_t chunks_;
  Deal deal_;
  int64_t width_;
  const double* columns_[M::kParams];
  bool centered_;
};

}  // namespace normd::kernels::NORMD_KERNELS_ISA
