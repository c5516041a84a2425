// What happens to sixteen values at once (V is V16). An operation is a struct of
//   kInputs           tensors it reads: in[0], in[1]
//   kParams           numbers per channel: p[0] ...
// and, to be summed,
//   kSums, Terms(in, p, bound, terms)         the terms that a value adds to each sum
// or, to be written,
//   Value(in, p, bound)                       the output's value
// `bound` is the clip of x_hat, the same for all channels. NaN passes every comparison as "within the bound".
// Included by kernels_*.cc only; see v16.h.
namespace normd::kernels::NORMD_KERNELS_ISA {

// sum(x - shift), sum((x - shift)^2). p: shift.
struct MomentSums {
  static constexpr int kInputs = 1;
  static constexpr int kParams = 1;
  static constexpr int kSums = 2;
  template <typename V>
  [[gnu::always_inline]] static void Terms(const V* in, const V* p, double /*bound*/, V* terms) {
    terms[0] = in[0] - p[0];
    terms[1] = terms[0] * terms[0];
  }
};

// sum(dy), sum(dy * (x - mean)). in: x, dy. p: mean.
struct GradientSums {
  static constexpr int kInputs = 2;
  static constexpr int kParams = 1;
  static constexpr int kSums = 2;
  template <typename V>
  [[gnu::always_inline]] static void Terms(const V* in, const V* p, double /*bound*/, V* terms) {
    terms[0] = in[1];
    terms[1] = in[1] * (in[0] - p[0]);
  }
};

// sum(dy), sum(dy * clamped x_hat), sum(g), sum(g * x_hat), with g = 0 beyond the bound. in: x, dy. p: mean, inv_std.
struct ClippedGradientSums {
  static constexpr int kInputs = 2;
  static constexpr int kParams = 2;
  static constexpr int kSums = 4;
  template <typename V>
  [[gnu::always_inline]] static void Terms(const V* in, const V* p, double bound, V* terms) {
    const V x_hat = (in[0] - p[0]) * p[1];
    terms[0] = in[1];
    terms[1] = in[1] * Clamp(x_hat, bound);
    terms[2] = ZeroBeyond(x_hat, bound, in[1]);
    terms[3] = ZeroBeyond(x_hat, bound, in[1] * x_hat);
  }
};

// (x - center) * scale + offset: y from mean, gamma * inv_std, beta; and back from beta, 1 / (gamma * inv_std), mean.
struct Affine {
  static constexpr int kInputs = 1;
  static constexpr int kParams = 3;
  template <typename V>
  [[gnu::always_inline]] static V Value(const V* in, const V* p, double /*bound*/) {
    return (in[0] - p[0]) * p[1] + p[2];
  }
};

// gamma * clamp((x - mean) * inv_std) + beta. p: mean, inv_std, beta, gamma.
struct ClippedAffine {
  static constexpr int kInputs = 1;
  static constexpr int kParams = 4;
  template <typename V>
  [[gnu::always_inline]] static V Value(const V* in, const V* p, double bound) {
    return p[3] * Clamp((in[0] - p[0]) * p[1], bound) + p[2];
  }
};

// dx = scale * (g - mean_g - (x - mean) * slope). in: x, dy. p: mean, scale = gamma * inv_std, mean_g = sum(g) / n,
// slope = inv_std * sum(g * x_hat) / n; with clip also inv_std, and g = 0 beyond the bound.
template <bool kClip>
struct BatchGradient {
  static constexpr int kInputs = 2;
  static constexpr int kParams = kClip ? 5 : 4;
  template <typename V>
  [[gnu::always_inline]] static V Value(const V* in, const V* p, double bound) {
    const V d = in[0] - p[0];
    V g = in[1];
    if constexpr (kClip) g = ZeroBeyond(d * p[4], bound, g);
    return p[1] * (g - p[2] - d * p[3]);
  }
};

// dx = scale * g. in: x, dy. p: scale; with clip also mean, inv_std, and g = 0 beyond the bound.
template <bool kClip>
struct ConstantGradient {
  static constexpr int kInputs = 2;
  static constexpr int kParams = kClip ? 3 : 1;
  template <typename V>
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
};
struct NoValue {
  static constexpr int kInputs = 0;
  static constexpr int kParams = 0;
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
