#include "server/service/optimizer_conversion.h"

namespace normd::service {

std::optional<registry::OptimizerStep> ToOptimizerStep(const v1::BackwardRequest& request) {
  switch (request.optimizer_case()) {
    case v1::BackwardRequest::kSgd: {
      const v1::Sgd& sgd = request.sgd();
      return registry::SgdStep{.learning_rate = sgd.learning_rate(),
                               .momentum = sgd.momentum(),
                               .dampening = sgd.dampening(),
                               .nesterov = sgd.nesterov(),
                               .weight_decay = sgd.weight_decay()};
    }
    case v1::BackwardRequest::kAdam: {
      const v1::Adam& adam = request.adam();
      registry::AdamStep step;
      step.learning_rate = adam.learning_rate();
      if (adam.has_beta1()) step.beta1 = adam.beta1();
      if (adam.has_beta2()) step.beta2 = adam.beta2();
      if (adam.has_eps()) step.eps = adam.eps();
      step.weight_decay = adam.weight_decay();
      step.decoupled_weight_decay = adam.decoupled_weight_decay();
      return step;
    }
    case v1::BackwardRequest::OPTIMIZER_NOT_SET:
      break;
  }
  return std::nullopt;
}

}  // namespace normd::service
