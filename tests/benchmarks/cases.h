#ifndef NORMD_TESTS_BENCHMARKS_CASES_H_
#define NORMD_TESTS_BENCHMARKS_CASES_H_

#include <cstdint>
#include <string>
#include <vector>

// The shapes that are measured: every batch norm of ResNet-50 (one for each size) at batch 32 and 8 in both layouts,
// and (N, C) batches.
namespace normd::benchmarks {

struct Case {
  std::string shape;
  // "nchw", "nhwc" or "nc".
  std::string layout;
  int64_t batch;
  int64_t num_channels;
  int64_t height;
  int64_t width;

  int64_t outer() const { return layout == "nchw" ? batch : batch * height * width; }
  int64_t inner() const { return layout == "nchw" ? height * width : 1; }
  int64_t elements() const { return batch * num_channels * height * width; }
};

inline std::vector<Case> Cases() {
  std::vector<Case> cases;
  constexpr struct {
    int64_t channels;
    int64_t size;
  } kLayers[] = {{64, 112}, {64, 56}, {256, 56}, {128, 28}, {512, 28}, {256, 14}, {1024, 14}, {512, 7}, {2048, 7}};
  for (const int64_t batch : {32, 8}) {
    for (const auto& layer : kLayers) {
      const std::string shape = std::to_string(batch) + "x" + std::to_string(layer.channels) + "x" +
                                std::to_string(layer.size) + "x" + std::to_string(layer.size);
      for (const char* layout : {"nchw", "nhwc"}) {
        cases.push_back({shape, layout, batch, layer.channels, layer.size, layer.size});
      }
    }
  }
  constexpr struct {
    int64_t rows;
    int64_t channels;
  } kBatches[] = {{4096, 256}, {256, 64}, {32, 1024}, {65536, 32}, {1, 64}};
  for (const auto& batch : kBatches) {
    cases.push_back(
        {std::to_string(batch.rows) + "x" + std::to_string(batch.channels), "nc", batch.rows, batch.channels, 1, 1});
  }
  return cases;
}

}  // namespace normd::benchmarks

#endif  // NORMD_TESTS_BENCHMARKS_CASES_H_
