#ifndef NORMD_CLIENT_CLI_NPY_H_
#define NORMD_CLIENT_CLI_NPY_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "normd/tensor.h"

// NumPy's .npy files (numpy.lib.format, versions 1 to 3): little-endian float16, float32 and float64 in C order. NumPy
// has no bfloat16.
namespace normd::cli {

// The array in `file`, the bytes of a whole .npy file, which the result refers to. INVALID_ARGUMENT says what it holds
// instead and what to do about it: big-endian, Fortran order, objects, other dtypes, cut off or damaged.
absl::StatusOr<TensorView> ParseNpy(absl::string_view file);

// The bytes of a .npy file that come before the elements. REQUIRES a type that NumPy has.
std::string NpyHeader(DType dtype, const std::vector<int64_t>& shape);

// All bytes of `path`; "-": of stdin.
absl::StatusOr<std::string> ReadFile(const std::string& path);

// A .npy file at `path`; "-": on stdout. Whatever stood there is replaced. INVALID_ARGUMENT: it is of bfloat16.
absl::Status WriteNpy(const Tensor& tensor, const std::string& path);

// The numbers of a .npy file as doubles, whatever its shape, or of `text` itself when that is a list like "0,0.5,1".
absl::StatusOr<std::vector<double>> ReadNumbers(const std::string& text);

}  // namespace normd::cli

#endif  // NORMD_CLIENT_CLI_NPY_H_
