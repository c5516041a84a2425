#include "client/cpp/testing/src/fake_optimizer.h"

#include <cmath>
#include <cstddef>

namespace normd::testing {
namespace {

void SgdStep(const v1::Sgd& sgd, bool first, double gradient, double* buffer, double* value) {
  double g = gradient + sgd.weight_decay() * *value;
  if (buffer != nullptr) {
    *buffer = first ? g : sgd.momentum() * *buffer + (1 - sgd.dampening()) * g;
    g = sgd.nesterov() ? g + sgd.momentum() * *buffer : *buffer;
  }
  *value -= sgd.learning_rate() * g;
}

void AdamStep(const v1::Adam& adam, int64_t t, double gradient, double* m, double* v, double* value) {
  const double beta1 = adam.has_beta1() ? adam.beta1() : 0.9;
  const double beta2 = adam.has_beta2() ? adam.beta2() : 0.999;
  const double eps = adam.has_eps() ? adam.eps() : 1e-8;
  const double decay = adam.weight_decay();
  if (adam.decoupled_weight_decay()) *value *= 1 - adam.learning_rate() * decay;
  const double g = adam.decoupled_weight_decay() ? gradient : gradient + decay * *value;
  *m = beta1 * *m + (1 - beta1) * g;
  *v = beta2 * *v + (1 - beta2) * g * g;
  const double m_hat = *m / (1 - std::pow(beta1, static_cast<double>(t)));
  const double v_hat = *v / (1 - std::pow(beta2, static_cast<double>(t)));
  *value -= adam.learning_rate() * m_hat / (std::sqrt(v_hat) + eps);
}

}  // namespace

void FakeOptimizer::Step(const v1::BackwardRequest& request, const std::vector<double>& dgamma,
                         const std::vector<double>& dbeta, v1::LayerState* state) {
  if (kind_ != request.optimizer_case()) {
    *this = FakeOptimizer();
    kind_ = request.optimizer_case();
  }
  ++num_steps_;
  const auto step = [&](const std::vector<double>& gradients, Buffers* buffers, auto* values) {
    const bool first = buffers->first.empty();
    buffers->first.resize(gradients.size());
    buffers->second.resize(gradients.size());
    for (std::size_t c = 0; c < gradients.size(); ++c) {
      double* const value = values->Mutable(static_cast<int>(c));
      if (request.has_sgd()) {
        SgdStep(request.sgd(), first, gradients[c], request.sgd().momentum() != 0 ? &buffers->first[c] : nullptr,
                value);
      } else {
        AdamStep(request.adam(), num_steps_, gradients[c], &buffers->first[c], &buffers->second[c], value);
      }
    }
  };
  step(dgamma, &gamma_, state->mutable_gamma());
  step(dbeta, &beta_, state->mutable_beta());
}

}  // namespace normd::testing
