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

std::string Elements(DType dtype, int64_t bytes) {
  // The same in every run.
  std::mt19937 generator(1);
  std::string data(static_cast<std::size_t>(bytes), '\0');
  for (std::size_t i = 0; i < data.size(); i += ElementBytes(dtype)) {
    WriteElement(dtype, static_cast<uint32_t>(generator()), &data[i]);
  }
  return data;
}

}  // namespace

ServerTarget::ServerTarget(const std::string& server, ClientOptions client_options, const BenchOptions& options,
                           std::string layer)
    : layer_(std::move(layer)) {
  for (std::size_t i = 0; i < options.shapes.size(); ++i) {
    inputs_.push_back(Elements(options.dtype, options.BytesOf(i)));
  }
  for (std::size_t i = 0; i < options.shapes.size(); ++i) {
    TensorView view;
    view.dtype = options.dtype;
    view.shape = options.shapes[i];
    view.layout = options.layout;
    view.data = inputs_[i];
    views_.push_back(std::move(view));
  }
  client_options.retry.max_attempts = 1;
  for (int i = 0; i < options.connections; ++i) clients_.push_back(Client::Connect(server, client_options));
}

void ServerTarget::Start(const BenchStep& step, std::size_t lane, Done done) {
  Client& client = *clients_[lane % clients_.size()];
  const TensorView& x = views_[step.shape];
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
