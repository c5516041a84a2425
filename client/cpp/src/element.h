#ifndef NORMD_CLIENT_CPP_SRC_ELEMENT_H_
#define NORMD_CLIENT_CPP_SRC_ELEMENT_H_

#include "normd/tensor.h"

namespace normd::internal {

// An element of any type as double, exactly.
inline double ToDouble(float value) { return static_cast<double>(value); }
inline double ToDouble(double value) { return value; }
inline double ToDouble(Float16 value) { return static_cast<double>(ToFloat(value)); }
inline double ToDouble(BFloat16 value) { return static_cast<double>(ToFloat(value)); }

}  // namespace normd::internal

#endif  // NORMD_CLIENT_CPP_SRC_ELEMENT_H_
