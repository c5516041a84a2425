#include "server/registry/optimizer.h"

#include <cmath>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace normd::registry {
namespace {

using layer::OptimizerState;

absl::Status CheckNotNegative(absl::string_view field, double value) {
  if (std::isfinite(value) && value >= 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, " is ", value, ", want a finite number >= 0"));
}

absl::Status CheckBelowOne(absl::string_view field, double value) {
  if (value >= 0 && value < 1) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, " is ", value, ", want a number in [0, 1)"));
}

absl::Status Validate(const SgdStep& step) {
  absl::Status status = CheckNotNegative("sgd.learning_rate", step.learning_rate);
  if (status.ok()) status = CheckBelowOne("sgd.momentum", step.momentum);
  if (status.ok()) status = CheckNotNegative("sgd.weight_decay", step.weight_decay);
  if (!status.ok()) return status;
  if (!(step.dampening >= 0 && step.dampening <= 1)) {
    return absl::InvalidArgumentError(absl::StrCat("sgd.dampening is ", step.dampening, ", want a number in [0, 1]"));
  }
  if (step.nesterov && (step.momentum == 0 || step.dampening != 0)) {
    return absl::InvalidArgumentError(absl::StrCat("sgd.nesterov is true with momentum ", step.momentum,
                                                   " and dampening ", step.dampening,
                                                   ", want momentum > 0 and dampening 0"));
  }
  return absl::OkStatus();
}

absl::Status Validate(const AdamStep& step) {
  absl::Status status = CheckNotNegative("adam.learning_rate", step.learning_rate);
  if (status.ok()) status = CheckBelowOne("adam.beta1", step.beta1);
  if (status.ok()) status = CheckBelowOne("adam.beta2", step.beta2);
  if (status.ok()) status = CheckNotNegative("adam.weight_decay", step.weight_decay);
  if (status.ok() && !(std::isfinite(step.eps) && step.eps > 0)) {
    return absl::InvalidArgumentError(absl::StrCat("adam.eps is ", step.eps, ", want a finite number > 0"));
  }
  return status;
}

// One of the two parameters with its gradient and what the optimizer remembers of it.
struct Parameter {
  absl::Span<const double> gradient;
  std::vector<double>& value;
  std::vector<double>& momentum;
  std::vector<double>& second_moment;
};

// torch.optim.SGD, one value.
void Apply(const SgdStep& step, bool first, double gradient, double& value, double* momentum) {
  double g = gradient + step.weight_decay * value;
  if (momentum != nullptr) {
    *momentum = first ? g : step.momentum * *momentum + (1 - step.dampening) * g;
    g = step.nesterov ? g + step.momentum * *momentum : *momentum;
  }
  value -= step.learning_rate * g;
}

// torch.optim.Adam and AdamW.
class AdamRule {
 public:
  AdamRule(const AdamStep& step, int64_t t)
      : step_(step),
        step_size_(step.learning_rate / (1 - std::pow(step.beta1, static_cast<double>(t)))),
        root_correction_(std::sqrt(1 - std::pow(step.beta2, static_cast<double>(t)))) {}

  void Apply(double gradient, double& value, double& momentum, double& second_moment) const {
    double g = gradient;
    if (step_.decoupled_weight_decay) {
      value *= 1 - step_.learning_rate * step_.weight_decay;
    } else {
      g += step_.weight_decay * value;
    }
    momentum = step_.beta1 * momentum + (1 - step_.beta1) * g;
    second_moment = step_.beta2 * second_moment + (1 - step_.beta2) * g * g;
    value -= step_size_ * (momentum / (std::sqrt(second_moment) / root_correction_ + step_.eps));
  }

 private:
  const AdamStep& step_;
  const double step_size_;
  const double root_correction_;
};

void StartKind(OptimizerState::Kind kind, OptimizerState* state) {
  if (state->kind == kind) return;
  *state = OptimizerState();
  state->kind = kind;
}

}  // namespace

absl::Status ValidateOptimizer(const OptimizerStep& step) {
  return std::visit([](const auto& kind) { return Validate(kind); }, step);
}

void ApplyOptimizer(const OptimizerStep& step, absl::Span<const double> dgamma, absl::Span<const double> dbeta,
                    bool skip_non_finite, layer::OptimizerState* state, layer::Affine* affine) {
  const size_t num_channels = affine->gamma.size();
  const auto skip = [&](size_t c) { return skip_non_finite && !(std::isfinite(dgamma[c]) && std::isfinite(dbeta[c])); };
  const auto* const sgd = std::get_if<SgdStep>(&step);
  StartKind(sgd != nullptr ? OptimizerState::Kind::kSgd : OptimizerState::Kind::kAdam, state);
  state->num_steps += 1;

  Parameter parameters[] = {{dgamma, affine->gamma, state->gamma_momentum, state->gamma_second_moment},
                            {dbeta, affine->beta, state->beta_momentum, state->beta_second_moment}};
  for (Parameter& p : parameters) {
    if (sgd != nullptr) {
      const bool keeps_buffer = sgd->momentum != 0;
      const bool first = keeps_buffer && p.momentum.empty();
      if (first) p.momentum.resize(num_channels);
      for (size_t c = 0; c < num_channels; ++c) {
        if (!skip(c)) Apply(*sgd, first, p.gradient[c], p.value[c], keeps_buffer ? &p.momentum[c] : nullptr);
      }
    } else {
      p.momentum.resize(num_channels);
      p.second_moment.resize(num_channels);
      const AdamRule adam(std::get<AdamStep>(step), state->num_steps);
      for (size_t c = 0; c < num_channels; ++c) {
        if (!skip(c)) adam.Apply(p.gradient[c], p.value[c], p.momentum[c], p.second_moment[c]);
      }
    }
  }
}

}  // namespace normd::registry
