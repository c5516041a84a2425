// What the walks over a tensor (rows.h, columns.h) have in common. Included by kernels_*.cc only; see v16.h.
namespace normd::kernels::NORMD_KERNELS_ISA {

template <typename T>
struct Tensors {
  // The inputs of an operation: x, or x and dy.
  const T* in[2];
  // Null: nothing is written.
  T* out;
  int64_t outer;
  int64_t num_channels;
  int64_t inner;

  int64_t elements() const { return outer * num_channels * inner; }
};

// Numbers per channel that an operation is given (kCount of them) or makes.
template <int kCount>
struct ChannelArrays {
  const double* array[kCount == 0 ? 1 : kCount];
};
template <int kCount>
struct ChannelSums {
  double* array[kCount == 0 ? 1 : kCount];
};

// How far ahead of its use memory is asked for. Without it a core here reads from DRAM at 60-70 % of its speed with it:
// the hardware's prefetcher starts anew on every 4 KB page.
inline constexpr int64_t kAheadBytes = 4096;
inline constexpr int64_t kLineBytes = 64;

template <typename T>
inline constexpr int64_t kAhead = kAheadBytes / static_cast<int64_t>(sizeof(T));

// Asks for the line of p, into the first or the second level. An asm: GCC 12 takes a function that only prefetches for
// one without effect and drops the calls.
template <bool kFirstLevel>
[[gnu::always_inline]] inline void Prefetch(const void* p) {
#if defined(__x86_64__)
  if constexpr (kFirstLevel) {
    asm volatile("prefetcht0 %a0" : : "p"(p));
  } else {
    asm volatile("prefetcht1 %a0" : : "p"(p));
  }
#elif defined(__aarch64__)
  if constexpr (kFirstLevel) {
    asm volatile("prfm pldl1keep, [%0]" : : "r"(p));
  } else {
    asm volatile("prfm pldl2keep, [%0]" : : "r"(p));
  }
#else
  __builtin_prefetch(p, 0, kFirstLevel ? 3 : 2);
#endif
}

// Asks for the 16 elements at base + index, which may lie outside of the tensor.
template <bool kFirstLevel, typename T>
[[gnu::always_inline]] inline void PrefetchChunk(const T* base, int64_t index) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(base) + static_cast<uintptr_t>(index) * sizeof(T);
  for (int64_t byte = 0; byte < order::kLanes * static_cast<int64_t>(sizeof(T)); byte += kLineBytes) {
    Prefetch<kFirstLevel>(reinterpret_cast<const void*>(address + static_cast<uintptr_t>(byte)));
  }
}

// The grid of 16-element chunks on which `out` is aligned to a chunk's size: index e is on it iff
// (e + offset) % 16 == 0. Whole chunks can be written past the caches and never share a cache line.
template <typename T>
struct Grid {
  explicit Grid(const T* out)
      : offset(static_cast<int64_t>(reinterpret_cast<uintptr_t>(out) / sizeof(T) % order::kLanes)) {}

  int64_t Up(int64_t e) const { return order::RoundUp(e + offset, order::kLanes) - offset; }
  int64_t Down(int64_t e) const { return (e + offset) / order::kLanes * order::kLanes - offset; }

  int64_t offset;
};

template <int kInputs, typename T>
[[gnu::always_inline]] inline void LoadInputs(const Tensors<T>& t, int64_t e, V16* in) {
  Each<kInputs>([&](auto i) { in[i] = Load(t.in[i] + e); });
}
template <int kInputs, typename T>
[[gnu::always_inline]] inline void LoadSomeInputs(const Tensors<T>& t, int64_t e, int64_t count, V16* in) {
  Each<kInputs>([&](auto i) { in[i] = LoadSome(t.in[i] + e, count); });
}

// Writes `count` (< 16) elements from e on.
template <typename M, bool kCentered, typename T>
[[gnu::always_inline]] inline void WriteSome(const Tensors<T>& t, int64_t e, int64_t count, const V16* params,
                                             double bound) {
  V16 in[2];
  LoadSomeInputs<M::kInputs>(t, e, count, in);
  StoreSome(M::template Value<kCentered>(in, params, bound), t.out + e, count);
}

}  // namespace normd::kernels::NORMD_KERNELS_ISA
