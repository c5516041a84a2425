#ifndef NORMD_SERVER_KERNELS_VECTOR_KERNELS_H_
#define NORMD_SERVER_KERNELS_VECTOR_KERNELS_H_

#include "server/kernels/implementation.h"

// One algorithm (rows.h, columns.h) built once for each instruction set, each in a translation unit of its own with its
// own compiler flags.
namespace normd::kernels {

namespace avx512 {
extern const Implementation kImplementation;
}
namespace avx2 {
extern const Implementation kImplementation;
}
namespace baseline {
extern const Implementation kImplementation;
}

}  // namespace normd::kernels

#endif  // NORMD_SERVER_KERNELS_VECTOR_KERNELS_H_
