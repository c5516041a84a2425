#include "server/service/training_conversion.h"

namespace normd::service {

registry::TrainStepInput ToTrainStepInput(const v1::TrainStepRequest& request) {
  registry::TrainStepInput input;
  input.layer = request.layer();
  input.gamma.assign(request.gamma().begin(), request.gamma().end());
  input.beta.assign(request.beta().begin(), request.beta().end());
  input.skip_update = request.skip_update();
  input.request_id = request.request_id();
  return input;
}

v1::TrainStepResponse ToProto(const registry::TrainStepResult& result) {
  v1::TrainStepResponse response;
  response.mutable_batch_mean()->Assign(result.batch_mean.begin(), result.batch_mean.end());
  response.mutable_batch_var()->Assign(result.batch_var.begin(), result.batch_var.end());
  response.mutable_skipped_channels()->Assign(result.skipped_channels.begin(), result.skipped_channels.end());
  response.set_version(result.version);
  response.set_content_hash(result.content_hash);
  response.set_num_batches_tracked(result.num_batches_tracked);
  response.set_replayed(result.replayed);
  return response;
}

registry::MergeMomentsInput ToMergeMomentsInput(const v1::MergeMomentsRequest& request) {
  const v1::Moments& moments = request.moments();
  registry::MergeMomentsInput input;
  input.layer = request.layer();
  input.moments.count.assign(moments.count().begin(), moments.count().end());
  input.moments.mean.assign(moments.mean().begin(), moments.mean().end());
  input.moments.m2.assign(moments.m2().begin(), moments.m2().end());
  input.moments.min.assign(moments.min().begin(), moments.min().end());
  input.moments.max.assign(moments.max().begin(), moments.max().end());
  input.moments.non_finite_count.assign(moments.non_finite_count().begin(), moments.non_finite_count().end());
  input.contributor = request.contributor();
  input.sequence = request.sequence();
  input.request_id = request.request_id();
  return input;
}

v1::MergeMomentsResponse ToProto(const registry::MergeMomentsResult& result) {
  const layer::LayerSnapshot& snapshot = *result.snapshot;
  const layer::Statistics& statistics = *snapshot.statistics;
  v1::MergeMomentsResponse response;
  response.set_version(snapshot.version);
  response.set_content_hash(snapshot.content_hash);
  response.mutable_running_mean()->Assign(statistics.running_mean.begin(), statistics.running_mean.end());
  response.mutable_running_var()->Assign(statistics.running_var.begin(), statistics.running_var.end());
  response.mutable_sample_count()->Assign(statistics.sample_count.begin(), statistics.sample_count.end());
  response.set_num_batches_tracked(statistics.num_batches_tracked);
  response.set_replayed(result.replayed);
  return response;
}

}  // namespace normd::service
