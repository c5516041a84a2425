#include "client/cli/bench_target.h"

#include <cstring>
#include <random>
#include <utility>

namespace normd::cli {
namespace {

// One element of magnitude 0.5 to 2 or so and either sign, written into `to`; the bits are chosen, since C++20 cannot
// convert to all of the types.
void WriteElement(DType dtype, uint32_t random, char* to) {
  const uint32_t sign = random >> 31;
  const uint32_t exponent = (random >> 30) & 1;
  const auto write = [to](auto bits) { std::memcpy(to, &bits, sizeof(bits)); };
  switch (dtype) {
    case DType::kFloat32:
      return write(sign << 31 | (126 + exponent) << 23 | (random & 0x7fffff));
    case DType::kFloat64:
      return write(uint64_t{sign} << 63 | uint64_t{1022 + exponent} << 52 | uint64_t{random & 0x3fffffff} << 22);
    case DType::kFloat16:
      return write(static_cast<uint16_t>(sign << 15 | (14 + exponent) << 10 | (random & 0x3ff)));
    case DType::kBFloat16:
      return write(static_cast<uint16_t>(sign << 15 | (126 + exponent) << 7 | (random & 0x7f)));
  }
}

void FillIn(Tensor* tensor) {
  // The same in every run.
  std::mt19937 generator(1);
  const absl::Span<char> data = tensor->mutable_bytes();
  for (std::size_t i = 0; i < data.size(); i += ElementBytes(tensor->dtype())) {
    WriteElement(tensor->dtype(), static_cast<uint32_t>(generator()), &data[i]);
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<ServerTarget>> ServerTarget::Create(const std::string& server,
                                                                   ClientOptions client_options,
                                                                   const BenchOptions& options, std::string layer) {
  std::unique_ptr<ServerTarget> target(new ServerTarget(std::move(layer)));
  client_options.retry.max_attempts = 1;
  client_options.transport = options.transport;
  for (int i = 0; i < options.connections; ++i) {
    target->clients_.push_back(Client::Connect(server, client_options));
    std::vector<Tensor>& inputs = target->inputs_.emplace_back();
    for (const std::vector<int64_t>& shape : options.shapes) {
      absl::StatusOr<Tensor> input = target->clients_.back()->AllocateTensor(options.dtype, shape, options.layout);
      if (!input.ok()) return input.status();
      FillIn(&*input);
      inputs.push_back(*std::move(input));
    }
  }
  return target;
}

void ServerTarget::Start(const BenchStep& step, std::size_t lane, Done done) {
  const std::size_t connection = lane % clients_.size();
  Client& client = *clients_[connection];
  const TensorView x = inputs_[connection][step.shape].view();
  if (step.call == BenchCall::kTrain) {
    client.TrainStepAsync(layer_, x, {}, [done = std::move(done)](const absl::StatusOr<TrainStepResult>& result) {
      done(result.ok() ? absl::StatusOr<int64_t>(result->y.bytes().size()) : result.status());
    });
  } else {
    client.InferAsync(layer_, x, {}, [done = std::move(done)](const absl::StatusOr<InferResult>& result) {
      done(result.ok() ? absl::StatusOr<int64_t>(result->output.bytes().size()) : result.status());
    });
  }
}

}  // namespace normd::cli
