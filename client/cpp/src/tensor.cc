#include "normd/tensor.h"

namespace normd {

std::size_t ElementBytes(DType dtype) { return dtype == DType::kFloat32 ? sizeof(float) : sizeof(double); }

}  // namespace normd
