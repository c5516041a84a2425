#ifndef NORMD_TESTS_SERVER_KERNELS_ELEMENT_TYPES_H_
#define NORMD_TESTS_SERVER_KERNELS_ELEMENT_TYPES_H_

#include <gtest/gtest.h>

#include "server/kernels/half.h"

// What a tensor's elements can be, for typed tests.
namespace normd::kernels {

using ElementTypes = ::testing::Types<float, double, Float16, BFloat16>;
using FloatAndDouble = ::testing::Types<float, double>;

}  // namespace normd::kernels

#endif  // NORMD_TESTS_SERVER_KERNELS_ELEMENT_TYPES_H_
