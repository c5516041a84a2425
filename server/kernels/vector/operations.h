// What happens to sixteen values at once (V is V16). An operation is a struct of
//   kInputs           tensors it reads: in[0], in[1]
//   kParams           numbers per channel: p[0] ...
//   kHasCenter        whether p[0] is a center that is taken from in[0]. Where it is 0 for all channels, kCentered =
//                     false gives the same bits with an operation less.
// and, to be summed,
//   kSums, Terms<kCentered>(in, p, bound, terms)   the terms that a value adds to each sum
//   kProducts         whether term 1 without a center is in[0] * in[1]
// or, to be written,
//   Value<kCentered>(in, p, bound)                 the output's value
// `bound` is the clip of x_hat, the same for all channels. NaN passes every comparison as "within the bound".
// Included by kernels_*.cc only; see v16.h.
namespace normd::kernels::NORMD_KERNELS_ISA {

template <bool kCentered, typename V>
[[gnu::always_inline]] inline V Centered(const V& x, const V& center) {
  if constexpr (kCentered) return x - center;
  return x;
}

// sum(x - shift), sum((x - shift)^2). p: shift.
struct MomentSums {
  static constexpr int kInputs = 1;
  static constexpr int kParams = 1;
  static constexpr int kSums = 2;
  static constexpr bool kHasCenter = false;
  static constexpr bool kProducts = false;
  template <bool kCentered, typename V>
  [[gnu::always_inline]] static void Terms(const V* in, const V* p, double /*bound*/, V* terms) {
    terms[0] = SubtractByMultiplier(in[0], p[0]);
    terms[1] = terms[0] * terms[0];
  }
};

// sum(dy), sum(dy * (x - center)). in: x, dy. p: center.
struct GradientSums {
  static constexpr int kInputs = 2;
  static constexpr int kParams = 1;
  static constexpr int kSums = 2;
  static constexpr bool kHasCenter = true;
  static constexpr bool kProducts = true;
  template <bool kCentered, typename V>
  [[gnu::always_inline]] static void Terms(const V* in, const V* p, double /*bound*/, V* terms) {
    terms[0] = in[1];
    terms[1] = in[1] * Centered<kCentered>(in[0], p[0]);
  }
};

// sum(dy), sum(dy * clamped x_hat), sum(g), sum(g * x_hat), with g = 0 beyond the bound. in: x, dy. p: mean, inv_std.
struct ClippedGradientSums {
  static constexpr int kInputs = 2;
  static constexpr int kParams = 2;
  static constexpr int kSums = 4;
  static constexpr bool kHasCenter = false;
  static constexpr bool kProducts = false;
  template <bool kCentered, typename V>
  [[gnu::always_inline]] static void Terms(const V* in, const V* p, double bound, V* terms) {
    const V x_hat = (in[0] - p[0]) * p[1];
    terms[0] = in[1];
    terms[1] = in[1] * Clamp(x_hat, bound);
    terms[2] = ZeroBeyond(x_hat, bound, in[1]);
    terms[3] = ZeroBeyond(x_hat, bound, in[1] * x_hat);
  }
};

// Adds the terms of sixteen elements of type T to the sums, every other one with the multipliers.
template <typename R, typename T, bool kCentered, typename V>
[[gnu::always_inline]] inline void AddTerms(const V* in, const V* p, double bound, V* sums) {
  if constexpr (R::kProducts && !kCentered) {
    // Without a center T is float32 (kMaySkipCenter), and a product of two is exact in float64.
    sums[0] = AddByMultiplier(in[1], sums[0]);
    sums[1] = AddExactProduct(in[0], in[1], sums[1]);
  } else {
    V terms[R::kSums];
    R::template Terms<kCentered>(in, p, bound, terms);
    Each<R::kSums>([&](auto s) { sums[s] = s % 2 == 0 ? AddByMultiplier(terms[s], sums[s]) : sums[s] + terms[s]; });
  }
}

// Whether there is code without the center as well: for float32 alone, which gains by it. The bits are the same.
template <typename T>
inline constexpr bool kIsFloat32 = false;
template <>
inline constexpr bool kIsFloat32<float> = true;
template <typename Op, typename T>
inline constexpr bool kMaySkipCenter = kSkipsCenters&& Op::kHasCenter&& kIsFloat32<T>;

// Calls f<true>(), or f<false>() where there is no center to take off.
template <typename Op, typename T, typename F>
[[gnu::always_inline]] inline void WithCenter(bool centered, const F& f) {
  if constexpr (kMaySkipCenter<Op, T>) {
    if (!centered) {
      f.template operator()<false>();
      return;
    }
  }
  f.template operator()<true>();
}

// (x - center) * scale + offset.
struct Affine {
  static constexpr int kInputs = 1;
  static constexpr int kParams = 3;
  static constexpr bool kHasCenter = true;
  template <bool kCentered, typename V>
  [[gnu::always_inline]] static V Value(const V* in, const V* p, double /*bound*/) {
    return Centered<kCentered>(in[0], p[0]) * p[1] + p[2];
  }
};

// gamma * clamp((x - mean) * inv_std) + beta. p: mean, inv_std, beta, gamma.
struct ClippedAffine {
  static constexpr int kInputs = 1;
  static constexpr int kParams = 4;
  static constexpr bool kHasCenter = false;
  template <bool kCentered, typename V>
  [[gnu::always_inline]] static V Value(const V* in, const V* p, double bound) {
    return p[3] * Clamp((in[0] - p[0]) * p[1], bound) + p[2];
  }
};

// dx = scale * (g - mean(g) - x_hat * mean(g * x_hat)) = scale * g + ((x - center) * slope + offset). in: x, dy.
// p: center, scale, slope, offset.
struct BatchGradient {
  static constexpr int kInputs = 2;
  static constexpr int kParams = 4;
  static constexpr bool kHasCenter = true;
  template <bool kCentered, typename V>
  [[gnu::always_inline]] static V Value(const V* in, const V* p, double /*bound*/) {
    return in[1] * p[1] + (Centered<kCentered>(in[0], p[0]) * p[2] + p[3]);
  }
};

// The same with g = 0 where x_hat is beyond the bound. p: mean, scale, slope, offset, inv_std.
struct ClippedBatchGradient {
  static constexpr int kInputs = 2;
  static constexpr int kParams = 5;
  static constexpr bool kHasCenter = false;
  template <bool kCentered, typename V>
  [[gnu::always_inline]] static V Value(const V* in, const V* p, double bound) {
    const V d = in[0] - p[0];
    return ZeroBeyond(d * p[4], bound, in[1]) * p[1] + (d * p[2] + p[3]);
  }
};

// dx = scale * g. in: x, dy. p: scale; with clip also mean, inv_std, and g = 0 beyond the bound.
template <bool kClip>
struct ConstantGradient {
  static constexpr int kInputs = 2;
  static constexpr int kParams = kClip ? 3 : 1;
  static constexpr bool kHasCenter = false;
  template <bool kCentered, typename V>
  [[gnu::always_inline]] static V Value(const V* in, const V* p, double bound) {
    V g = in[1];
    if constexpr (kClip) g = ZeroBeyond((in[0] - p[1]) * p[2], bound, g);
    return p[0] * g;
  }
};

// Stand-ins for "nothing to add" and "nothing to write".
struct NoSums {
  static constexpr int kInputs = 0;
  static constexpr int kParams = 0;
  static constexpr int kSums = 0;
  static constexpr bool kHasCenter = false;
};
struct NoValue {
  static constexpr int kInputs = 0;
  static constexpr int kParams = 0;
  static constexpr bool kHasCenter = false;
};

// A step of a compensated sum (TwoSum) on one double or on a Vec.
template <typename V>
[[gnu::always_inline]] inline void AddTwoSum(V term, V* sum, V* error) {
  const V next = *sum + term;
  const V added = next - *sum;
  *error += (*sum - (next - added)) + (term - added);
  *sum = next;
}
inline bool IsFinite(double v) { return v - v == 0; }
// Infinity and NaN stay what plain addition makes them.
inline double TwoSumValue(double sum, double error) { return IsFinite(sum) ? sum + error : sum; }

}  // namespace normd::kernels::NORMD_KERNELS_ISA
