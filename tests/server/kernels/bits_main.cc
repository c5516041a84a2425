// Whether this machine's bits are those of every other one. For machines that the tests cannot be built for: the
// aarch64 test builds it with Debian's cross compiler and runs it under qemu-user.
#include <cstdint>
#include <cstdio>

#include "server/kernels/implementation.h"
#include "tests/server/kernels/bits.h"

namespace {

template <typename T>
bool Check(const char* type) {
  const uint64_t got = normd::kernels::bits::GoldenHash<T>();
  const uint64_t want = normd::kernels::bits::kGolden<T>;
  std::printf("%s: %s\n", type, got == want ? "the same bits" : "OTHER BITS");
  return got == want;
}

}  // namespace

int main() {
  using namespace normd::kernels;  // NOLINT(google-build-using-namespace)
  bool same = true;
  for (const Implementation* implementation : SupportedImplementations()) {
    UseImplementation(implementation->name);
    std::printf("%s\n", implementation->name);
    same = Check<float>("float32") && same;
    same = Check<double>("float64") && same;
    same = Check<Float16>("float16") && same;
    same = Check<BFloat16>("bfloat16") && same;
  }
  return same ? 0 : 1;
}
