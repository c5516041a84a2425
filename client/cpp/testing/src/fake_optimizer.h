#ifndef NORMD_CLIENT_CPP_TESTING_SRC_FAKE_OPTIMIZER_H_
#define NORMD_CLIENT_CPP_TESTING_SRC_FAKE_OPTIMIZER_H_

#include <cstdint>
#include <vector>

#include "normd/v1/normalization_service.pb.h"
#include "normd/v1/resources.pb.h"

namespace normd::testing {

// Steps on gamma and beta as normalization_service.proto has them (Sgd, Adam). Not thread-safe.
class FakeOptimizer {
 public:
  // REQUIRES request.has_sgd() or request.has_adam(), and as many gradients as there are values.
  void Step(const v1::BackwardRequest& request, const std::vector<double>& dgamma, const std::vector<double>& dbeta,
            v1::LayerState* state);

 private:
  // What it remembers of one parameter.
  struct Buffers {
    std::vector<double> first;
    std::vector<double> second;
  };

  v1::BackwardRequest::OptimizerCase kind_ = v1::BackwardRequest::OPTIMIZER_NOT_SET;
  int64_t num_steps_ = 0;
  Buffers gamma_;
  Buffers beta_;
};

}  // namespace normd::testing

#endif  // NORMD_CLIENT_CPP_TESTING_SRC_FAKE_OPTIMIZER_H_
