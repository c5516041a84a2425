#ifndef NORMD_TESTS_SERVER_KERNELS_ADVERSARIAL_H_
#define NORMD_TESTS_SERVER_KERNELS_ADVERSARIAL_H_

#include <cmath>
#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "tests/server/kernels/truth.h"

// Inputs on which implementations of batch normalization are known to go wrong. The test judges ours by them, and
// tests/benchmarks puts PyTorch's and oneDNN's errors beside it.
namespace normd::kernels::truth {

struct AdversarialInput {
  std::string name;
  Shape shape;
  std::vector<float> x;
};

inline std::vector<float> Fill(const Shape& s, const std::function<double(int64_t)>& value) {
  std::vector<float> x(static_cast<size_t>(s.Elements()));
  for (int64_t i = 0; i < s.Elements(); ++i) x[static_cast<size_t>(i)] = static_cast<float>(value(i));
  return x;
}

inline std::vector<AdversarialInput> AdversarialInputs() {
  std::vector<AdversarialInput> inputs;
  const Shape rows = {32, 8, 1024};
  const Shape columns = {32768, 8, 1};
  std::mt19937 generator(7);
  std::normal_distribution<double> normal;
  std::uniform_real_distribution<double> uniform(-1, 1);
  const auto add = [&](const std::string& name, const std::function<double(int64_t)>& value) {
    inputs.push_back({name + ", NCHW", rows, Fill(rows, value)});
    inputs.push_back({name + ", (N,C)", columns, Fill(columns, value)});
  };
  add("mean 0, std 1", [&](int64_t) { return normal(generator); });
  for (const double mean : {1e3, 1e4, 1e5, 1e6}) {
    add("mean 1e" + std::to_string(std::lround(std::log10(mean))) + ", std 1",
        [&, mean](int64_t) { return mean + normal(generator); });
  }
  add("constant 1e10/3", [](int64_t) { return 1e10 / 3; });
  add("std 1e-20", [&](int64_t) { return 1e-20 * normal(generator); });
  add("std 1e18", [&](int64_t) { return 1e18 * normal(generator); });
  add("std 1e30", [&](int64_t) { return 1e30 * normal(generator); });
  add("denormals", [&](int64_t) { return 1e-41 * normal(generator); });
  add("magnitudes 1e-20 to 1e20",
      [&](int64_t) { return std::copysign(std::pow(10, 20 * uniform(generator)), uniform(generator)); });
  add("first value 1e6", [&](int64_t i) { return i < 8 || (i < 8192 && i % 1024 == 0) ? 1e6 : normal(generator); });
  const Shape one = {1, 8, 1};
  inputs.push_back({"one value", one, Fill(one, [&](int64_t) { return normal(generator); })});
  // Past 2^24 float32 cannot count, and a float32 sum of ones stands still.
  const Shape many = {(1 << 24) + 3, 1, 1};
  inputs.push_back({"2^24 + 3 values of 1 and 1.5", many, Fill(many, [](int64_t i) { return i % 2 == 0 ? 1 : 1.5; })});
  return inputs;
}

}  // namespace normd::kernels::truth

#endif  // NORMD_TESTS_SERVER_KERNELS_ADVERSARIAL_H_
