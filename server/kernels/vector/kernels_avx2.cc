#include "server/kernels/parallel.h"
#include "server/kernels/scratch.h"
#include "server/kernels/vector/kernels.h"

// In this order, see v16.h.
// clang-format off
#include "server/kernels/vector/isa_avx2.h"
#include "server/kernels/vector/v16.h"
#include "server/kernels/vector/operations.h"
#include "server/kernels/vector/tensors.h"
#include "server/kernels/vector/row_operation.h"
#include "server/kernels/vector/rows.h"
#include "server/kernels/vector/columns.h"
#include "server/kernels/vector/column_sums.h"
#include "server/kernels/vector/moments.h"
#include "server/kernels/vector/functions.h"
// clang-format on

namespace normd::kernels::avx2 {
namespace {

bool Supported() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}

}  // namespace

const Implementation kImplementation = MakeImplementation("avx2", &Supported);

}  // namespace normd::kernels::avx2
