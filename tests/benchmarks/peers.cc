#include "tests/benchmarks/peers.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <oneapi/dnnl/dnnl.hpp>
#include <unordered_map>
#include <vector>

namespace normd::benchmarks {

struct Torch::Impl {
  explicit Impl(const PeerLayer& layer) : eps(layer.eps) {
    const int64_t channels = layer.num_channels;
    const int64_t points = layer.height * layer.width;
    const auto options = at::TensorOptions().dtype(at::kFloat);
    std::vector<int64_t> sizes = {layer.batch, channels, layer.height, layer.width};
    std::vector<int64_t> strides = {channels * points, points, layer.width, 1};
    if (layer.layout == "nhwc") strides = {channels * points, 1, layer.width * channels, channels};
    if (layer.layout == "nc") {
      sizes.resize(2);
      strides = {channels, 1};
    }
    x = at::from_blob(const_cast<float*>(layer.x), sizes, strides, options);
    if (layer.dy != nullptr) dy = at::from_blob(const_cast<float*>(layer.dy), sizes, strides, options);
    weight = at::full({channels}, layer.gamma, options);
    bias = at::full({channels}, layer.beta, options);
    running_mean = at::zeros({channels}, options);
    running_var = at::ones({channels}, options);
    saved_inv_std = at::empty({channels}, options);
    for (int64_t c = 0; c < channels; ++c) {
      running_mean[c] = layer.mean[c];
      running_var[c] = layer.var[c];
      saved_inv_std[c] = 1 / std::sqrt(layer.var[c] + eps);
    }
    saved_mean = running_mean.clone();
    train_mean = running_mean.clone();
    train_var = running_var.clone();
  }

  void Train(double momentum) {
    out = at::Tensor();
    out = at::batch_norm(x, weight, bias, train_mean, train_var, true, momentum, eps, false);
  }

  const at::InferenceMode no_autograd;
  const double eps;
  at::Tensor x, dy, weight, bias, running_mean, running_var, saved_mean, saved_inv_std, train_mean, train_var, out;
};

Torch::Torch(const PeerLayer& layer) : impl_(std::make_unique<Impl>(layer)) {}
Torch::~Torch() = default;

void Torch::Train() { impl_->Train(0.1); }

void Torch::Infer() {
  impl_->out = at::Tensor();
  impl_->out = at::batch_norm(impl_->x, impl_->weight, impl_->bias, impl_->running_mean, impl_->running_var, false, 0.1,
                              impl_->eps, false);
}

void Torch::Backward() {
  impl_->out = at::Tensor();
  impl_->out = std::get<0>(at::native_batch_norm_backward(impl_->dy, impl_->x, impl_->weight, impl_->running_mean,
                                                          impl_->running_var, impl_->saved_mean, impl_->saved_inv_std,
                                                          true, impl_->eps, {true, true, true}));
}

const float* Torch::out() const { return impl_->out.data_ptr<float>(); }

void Torch::Statistics(std::vector<double>* mean, std::vector<double>* var) {
  impl_->Train(1.0);
  const auto* m = impl_->train_mean.data_ptr<float>();
  const auto* v = impl_->train_var.data_ptr<float>();
  mean->assign(m, m + impl_->train_mean.numel());
  var->assign(v, v + impl_->train_var.numel());
}

void SetTorchThreads(int threads) { at::set_num_threads(threads); }
int TorchThreads() { return at::get_num_threads(); }

struct OneDnn::Impl {
  using Args = std::unordered_map<int, dnnl::memory>;

  Impl(const PeerLayer& layer, float* out) : engine(dnnl::engine::kind::cpu, 0), stream(engine) {
    using dnnl::batch_normalization_backward;
    using dnnl::batch_normalization_forward;
    using dnnl::memory;
    using dnnl::normalization_flags;
    using dnnl::prop_kind;
    const auto tag = layer.layout == "nchw" ? memory::format_tag::nchw : memory::format_tag::nhwc;
    const memory::desc tensor({layer.batch, layer.num_channels, layer.height, layer.width}, memory::data_type::f32,
                              tag);
    const memory::desc channel({layer.num_channels}, memory::data_type::f32, memory::format_tag::x);
    const auto flags = normalization_flags::use_scale | normalization_flags::use_shift;
    const auto eps = static_cast<float>(layer.eps);
    const batch_normalization_forward::primitive_desc train_desc({prop_kind::forward_training, tensor, eps, flags},
                                                                 engine);
    const batch_normalization_forward::primitive_desc infer_desc(
        {prop_kind::forward_inference, tensor, eps, flags | normalization_flags::use_global_stats}, engine);
    train = batch_normalization_forward(train_desc);
    infer = batch_normalization_forward(infer_desc);
    const auto channels = [&](const auto& value_of) {
      memory m(channel, engine);
      auto* values = static_cast<float*>(m.get_data_handle());
      for (int64_t c = 0; c < layer.num_channels; ++c) values[c] = static_cast<float>(value_of(c));
      return m;
    };
    const auto constant = [&](double value) { return channels([=](int64_t) { return value; }); };
    const memory x(tensor, engine, const_cast<float*>(layer.x));
    const memory to(tensor, engine, out);
    const memory mean = channels([&](int64_t c) { return layer.mean[c]; });
    const memory var = channels([&](int64_t c) { return layer.var[c]; });
    const memory gamma = constant(layer.gamma);
    const memory beta = constant(layer.beta);
    batch_mean = constant(0);
    batch_var = constant(0);
    train_args = {{DNNL_ARG_SRC, x},      {DNNL_ARG_DST, to},          {DNNL_ARG_SCALE, gamma},
                  {DNNL_ARG_SHIFT, beta}, {DNNL_ARG_MEAN, batch_mean}, {DNNL_ARG_VARIANCE, batch_var}};
    infer_args = {{DNNL_ARG_SRC, x},      {DNNL_ARG_DST, to},    {DNNL_ARG_SCALE, gamma},
                  {DNNL_ARG_SHIFT, beta}, {DNNL_ARG_MEAN, mean}, {DNNL_ARG_VARIANCE, var}};
    if (layer.dy == nullptr) return;
    const batch_normalization_backward::primitive_desc backward_desc({prop_kind::backward, tensor, tensor, eps, flags},
                                                                     engine, train_desc);
    backward = batch_normalization_backward(backward_desc);
    backward_args = {{DNNL_ARG_SRC, x},
                     {DNNL_ARG_DIFF_DST, memory(tensor, engine, const_cast<float*>(layer.dy))},
                     {DNNL_ARG_DIFF_SRC, to},
                     {DNNL_ARG_SCALE, gamma},
                     {DNNL_ARG_SHIFT, beta},
                     {DNNL_ARG_MEAN, mean},
                     {DNNL_ARG_VARIANCE, var},
                     {DNNL_ARG_DIFF_SCALE, constant(0)},
                     {DNNL_ARG_DIFF_SHIFT, constant(0)}};
  }

  void Run(const dnnl::primitive& primitive, const Args& args) {
    primitive.execute(stream, args);
    stream.wait();
  }

  dnnl::engine engine;
  dnnl::stream stream;
  dnnl::primitive train, infer, backward;
  dnnl::memory batch_mean, batch_var;
  Args train_args, infer_args, backward_args;
};

OneDnn::OneDnn(const PeerLayer& layer, float* out) : impl_(std::make_unique<Impl>(layer, out)) {}
OneDnn::~OneDnn() = default;

void OneDnn::Train() { impl_->Run(impl_->train, impl_->train_args); }
void OneDnn::Infer() { impl_->Run(impl_->infer, impl_->infer_args); }
void OneDnn::Backward() { impl_->Run(impl_->backward, impl_->backward_args); }

void OneDnn::Statistics(std::vector<double>* mean, std::vector<double>* var) const {
  const auto* m = static_cast<const float*>(impl_->batch_mean.get_data_handle());
  const auto* v = static_cast<const float*>(impl_->batch_var.get_data_handle());
  const auto channels = static_cast<int64_t>(impl_->batch_mean.get_desc().get_size() / sizeof(float));
  mean->assign(m, m + channels);
  var->assign(v, v + channels);
}

}  // namespace normd::benchmarks
