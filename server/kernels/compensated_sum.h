#ifndef NORMD_SERVER_KERNELS_COMPENSATED_SUM_H_
#define NORMD_SERVER_KERNELS_COMPENSATED_SUM_H_

#include <cmath>

namespace normd::kernels {

// A sum that keeps the rounding error of every addition beside it (Knuth's TwoSum), so that its error does not grow
// with the number of terms. Sums that turned infinite or NaN stay what plain addition makes them.
struct CompensatedSum {
  double sum = 0;
  double error = 0;

  void Add(double term) {
    const double next = sum + term;
    const double added = next - sum;
    error += (sum - (next - added)) + (term - added);
    sum = next;
  }
  double Value() const { return std::isfinite(sum) ? sum + error : sum; }
};

}  // namespace normd::kernels

#endif  // NORMD_SERVER_KERNELS_COMPENSATED_SUM_H_
