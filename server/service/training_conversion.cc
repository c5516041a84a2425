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

}  // namespace normd::service
