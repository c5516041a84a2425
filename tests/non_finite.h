#ifndef NORMD_TESTS_NON_FINITE_H_
#define NORMD_TESTS_NON_FINITE_H_

#include <limits>

namespace normd::tests {

inline constexpr double kInf = std::numeric_limits<double>::infinity();
inline constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

}  // namespace normd::tests

#endif  // NORMD_TESTS_NON_FINITE_H_
