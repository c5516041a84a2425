#include <vector>

#include "client/cli/bench_json.h"
#include "client/cli/names.h"
#include "client/cli/printer.h"
#include "client/cli/state_json.h"
#include "client/cli/top_json.h"

namespace normd::cli {
namespace {

// The tensor's form, and its elements too when they go nowhere else.
Json ToJson(const Tensor& tensor, const Destination& destination) {
  Json out;
  out["dtype"] = std::string(NameOf(tensor.dtype()));
  out["shape"] = tensor.shape();
  out["layout"] = NameOf(LayoutNames(), tensor.layout());
  if (!destination.path.empty()) {
    out["path"] = destination.path;
    return out;
  }
  Json data = Json::array();
  for (const double value : tensor.ToDoubles()) data.push_back(cli::ToJson(value));
  out["data"] = std::move(data);
  return out;
}

class JsonPrinter : public Printer {
 public:
  explicit JsonPrinter(std::ostream* out) : out_(*out) {}

  void PrintLayer(const Layer& layer) override { Print(cli::ToJson(layer)); }

  void PrintLayers(const std::vector<Layer>& layers) override {
    Json list = Json::array();
    for (const Layer& layer : layers) list.push_back(cli::ToJson(layer));
    Print({{"layers", std::move(list)}});
  }

  void PrintDescription(const Layer& layer, const DescribeStyle& /*style*/) override { Print(cli::ToJson(layer)); }

  void PrintDeleted(absl::string_view name) override { Print({{"deleted", std::string(name)}}); }

  void PrintTrainStep(absl::string_view layer, const TrainStepResult& result, const Destination& y) override {
    Json out;
    out["layer"] = std::string(layer);
    if (!result.y.empty()) out["y"] = ToJson(result.y, y);
    out["batch_mean"] = cli::ToJson(result.batch_mean);
    out["batch_var"] = cli::ToJson(result.batch_var);
    out["version"] = result.version;
    out["content_hash"] = result.content_hash;
    out["num_batches_tracked"] = result.num_batches_tracked;
    out["skipped_channels"] = result.skipped_channels;
    out["replayed"] = result.replayed;
    Print(out);
  }

  void PrintInference(absl::string_view layer, absl::string_view what, const InferResult& result,
                      const Destination& output) override {
    Json out;
    out["layer"] = std::string(layer);
    out[std::string(what)] = ToJson(result.output, output);
    out["version"] = result.version;
    out["content_hash"] = result.content_hash;
    Print(out);
  }

  // One line each.
  void PrintChange(const LayerChange& change) override {
    Json out;
    if (change.deleted) {
      out["deleted"] = true;
      out["name"] = change.layer.name;
      out["uid"] = change.layer.uid;
      out["version"] = change.layer.version;
    } else {
      out = cli::ToJson(change.layer);
    }
    out_ << out.dump(-1, ' ', false, Json::error_handler_t::replace) << "\n";
  }

  void PrintSnapshots(const std::vector<Snapshot>& snapshots) override {
    Json list = Json::array();
    for (const Snapshot& snapshot : snapshots) list.push_back(cli::ToJson(snapshot));
    Print({{"snapshots", std::move(list)}});
  }

  void PrintRestored(absl::string_view from, int64_t num_layers) override {
    Print({{"from", std::string(from)}, {"num_layers", num_layers}});
  }

  void PrintBackup(absl::string_view path, int64_t bytes) override {
    Print({{"path", std::string(path)}, {"bytes", bytes}});
  }

  void PrintHealth(absl::string_view server, absl::string_view service, ServingStatus status) override {
    Print(
        {{"server", std::string(server)}, {"service", std::string(service)}, {"status", std::string(NameOf(status))}});
  }

  void PrintBench(const BenchReport& report) override { Print(cli::ToJson(report)); }

  void PrintStatistics(absl::string_view server, const ServerStatistics& before, const ServerStatistics& now) override {
    Print(TopJson(server, before, now));
  }

  void PrintLogLevel(LogLevel level) override { Print({{"level", NameOf(LogLevelNames(), level)}}); }

  void PrintVersion(absl::string_view version) override {
    Print({{"version", std::string(version)}, {"api", "normd.v1"}});
  }

 private:
  // A file name that is no UTF-8 must not end the program.
  void Print(const Json& json) { out_ << json.dump(2, ' ', false, Json::error_handler_t::replace) << "\n"; }

  std::ostream& out_;
};

}  // namespace

std::unique_ptr<Printer> MakeJsonPrinter(std::ostream* out) { return std::make_unique<JsonPrinter>(out); }

}  // namespace normd::cli
