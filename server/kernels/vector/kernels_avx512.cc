#include "server/kernels/parallel.h"
#include "server/kernels/scratch.h"
#include "server/kernels/vector/kernels.h"

// In this order, see v16.h.
// clang-format off
#include "server/kernels/vector/isa_avx512.h"
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

namespace normd::kernels::avx512 {
namespace {

bool Supported() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("f16c");
}

}  // namespace

const Implementation kImplementation = MakeImplementation("avx512", &Supported);

}  // namespace normd::kernels::avx512
