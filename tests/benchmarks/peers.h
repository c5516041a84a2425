#ifndef NORMD_TESTS_BENCHMARKS_PEERS_H_
#define NORMD_TESTS_BENCHMARKS_PEERS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

// PyTorch and oneDNN behind the same few calls, so that their headers stay out of the benchmarks.
namespace normd::benchmarks {

// A float32 tensor with its layer. Borrows x and dy.
struct PeerLayer {
  // "nchw", "nhwc" or "nc" (height and width 1).
  std::string layout;
  int64_t batch;
  int64_t num_channels;
  int64_t height;
  int64_t width;
  const float* x;
  // May be null if Backward is not called.
  const float* dy;
  // Statistics for inference and Backward.
  std::vector<double> mean;
  std::vector<double> var;
  double gamma;
  double beta;
  double eps;
};

// PyTorch 1.13. Its results are tensors of its own, in x's order of memory.
class Torch {
 public:
  explicit Torch(const PeerLayer& layer);
  ~Torch();
  Torch(const Torch&) = delete;
  Torch& operator=(const Torch&) = delete;

  void Train();
  void Infer();
  void Backward();
  // Of the latest call.
  const float* out() const;
  // The batch's statistics, as its running statistics take them with momentum 1. The variance is the sample's.
  void Statistics(std::vector<double>* mean, std::vector<double>* var);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

void SetTorchThreads(int threads);
int TorchThreads();

// oneDNN 2.6, in the layout that the tensor has; writes to `out`. Keeps the number of OpenMP threads that is set when
// it is made.
class OneDnn {
 public:
  OneDnn(const PeerLayer& layer, float* out);
  ~OneDnn();
  OneDnn(const OneDnn&) = delete;
  OneDnn& operator=(const OneDnn&) = delete;

  void Train();
  void Infer();
  void Backward();
  // Of the latest Train. Population variance.
  void Statistics(std::vector<double>* mean, std::vector<double>* var) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace normd::benchmarks

#endif  // NORMD_TESTS_BENCHMARKS_PEERS_H_
