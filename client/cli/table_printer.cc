#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include "client/cli/bench_table.h"
#include "client/cli/names.h"
#include "client/cli/plot.h"
#include "client/cli/printer.h"
#include "client/cli/table.h"
#include "client/cli/top_frame.h"

namespace normd::cli {
namespace {

// Channels shown at either end of a long list.
constexpr std::size_t kShownAtEachEnd = 5;
constexpr int kPlotBins = 40;
constexpr std::size_t kPreviewElements = 8;

std::string ToText(absl::Time time) { return absl::FormatTime("%Y-%m-%d %H:%M:%S UTC", time, absl::UTCTimeZone()); }

std::string YesNo(bool value) { return value ? "yes" : "no"; }

// Which of `count` rows to show; the gap stands where a row is more than one above the one before.
std::vector<std::size_t> ShownRows(std::size_t count, bool all) {
  std::vector<std::size_t> rows;
  for (std::size_t i = 0; i < count; ++i) {
    if (all || count <= 2 * kShownAtEachEnd + 1 || i < kShownAtEachEnd || i >= count - kShownAtEachEnd)
      rows.push_back(i);
  }
  return rows;
}

std::string CellOf(const std::vector<double>& values, std::size_t i) {
  return i < values.size() ? Number(values[i]) : "-";
}

void PrintPairs(const std::vector<std::pair<std::string, std::string>>& pairs, std::ostream* out) {
  for (const auto& [key, value] : pairs) *out << absl::StreamFormat("  %-24s %s\n", key, value);
}

std::vector<std::pair<std::string, std::string>> SettingsOf(const LayerConfig& config) {
  std::vector<std::pair<std::string, std::string>> pairs;
  pairs.emplace_back("num_channels", absl::StrCat(config.num_channels));
  if (config.eps) pairs.emplace_back("eps", Number(*config.eps));
  if (config.averaging) pairs.emplace_back("averaging", NameOf(AveragingNames(), *config.averaging));
  if (config.update_weight) pairs.emplace_back("update_weight", Number(*config.update_weight));
  if (config.running_var_estimator) {
    pairs.emplace_back("running_var_estimator", NameOf(VarianceEstimatorNames(), *config.running_var_estimator));
  }
  if (config.normalize_training_with) {
    pairs.emplace_back("normalize_training_with", NameOf(TrainingStatisticsNames(), *config.normalize_training_with));
  }
  if (config.affine) pairs.emplace_back("affine", YesNo(*config.affine));
  if (config.track_running_stats) pairs.emplace_back("track_running_stats", YesNo(*config.track_running_stats));
  pairs.emplace_back("clip", config.clip ? Number(*config.clip) : "none");
  if (config.non_finite_policy) {
    pairs.emplace_back("non_finite_policy", NameOf(NonFinitePolicyNames(), *config.non_finite_policy));
  }
  if (config.frozen) pairs.emplace_back("frozen", YesNo(*config.frozen));
  return pairs;
}

class TablePrinter : public Printer {
 public:
  explicit TablePrinter(std::ostream* out) : out_(*out) {}

  void PrintLayer(const Layer& layer) override {
    out_ << layer.name << "\n";
    std::vector<std::pair<std::string, std::string>> pairs = {{"preset", layer.preset}};
    for (auto& pair : SettingsOf(layer.config)) pairs.push_back(std::move(pair));
    if (layer.state) pairs.emplace_back("num_batches_tracked", absl::StrCat(layer.state->num_batches_tracked));
    pairs.emplace_back("version", absl::StrCat(layer.version));
    pairs.emplace_back("content_hash", layer.content_hash);
    pairs.emplace_back("etag", layer.etag);
    pairs.emplace_back("uid", layer.uid);
    if (!layer.affine_group.empty()) pairs.emplace_back("affine_group", layer.affine_group);
    pairs.emplace_back("created", ToText(layer.create_time));
    pairs.emplace_back("updated", ToText(layer.update_time));
    PrintPairs(pairs, &out_);
  }

  void PrintLayers(const std::vector<Layer>& layers) override {
    Table table({"NAME", "CHANNELS", "PRESET", "AVERAGING", "VERSION", "UPDATED"},
                {false, true, false, false, true, false});
    for (const Layer& layer : layers) {
      table.AddRow({layer.name, absl::StrCat(layer.config.num_channels), layer.preset,
                    layer.config.averaging ? NameOf(AveragingNames(), *layer.config.averaging) : "-",
                    absl::StrCat(layer.version), ToText(layer.update_time)});
    }
    table.Print(&out_);
  }

  void PrintDescription(const Layer& layer, const DescribeStyle& style) override {
    PrintLayer(layer);
    if (!layer.state) return;
    out_ << "\n";
    PrintChannels(layer, style.all);
    PrintPlots(*layer.state, style.ascii);
  }

  void PrintDeleted(absl::string_view name) override { out_ << "deleted " << name << "\n"; }

  void PrintTrainStep(absl::string_view layer, const TrainStepResult& result, const Destination& y) override {
    out_ << layer << "\n";
    std::vector<std::pair<std::string, std::string>> pairs;
    if (!result.y.empty()) pairs.emplace_back("y", Where(result.y, y));
    pairs.emplace_back("version", absl::StrCat(result.version));
    pairs.emplace_back("content_hash", result.content_hash);
    pairs.emplace_back("num_batches_tracked", absl::StrCat(result.num_batches_tracked));
    if (!result.skipped_channels.empty()) {
      pairs.emplace_back("skipped_channels", absl::StrJoin(result.skipped_channels, ", "));
    }
    if (result.replayed) pairs.emplace_back("replayed", "yes: this request_id had been folded in before");
    PrintPairs(pairs, &out_);
    out_ << "\n";
    Table table({"CHANNEL", "BATCH_MEAN", "BATCH_VAR"}, {true, true, true});
    AddRows(result.batch_mean.size(), /*all=*/false, 3, &table, [&](std::size_t i) {
      return std::vector<std::string>{absl::StrCat(i), CellOf(result.batch_mean, i), CellOf(result.batch_var, i)};
    });
    table.Print(&out_);
  }

  void PrintInference(absl::string_view layer, absl::string_view what, const InferResult& result,
                      const Destination& output) override {
    out_ << layer << "\n";
    PrintPairs({{std::string(what), Where(result.output, output)},
                {"version", absl::StrCat(result.version)},
                {"content_hash", result.content_hash}},
               &out_);
  }

  void PrintChange(const LayerChange& change) override {
    const Layer& layer = change.layer;
    out_ << layer.name << "  ";
    if (change.deleted) {
      out_ << "deleted\n";
      return;
    }
    out_ << "version " << layer.version << "  " << absl::string_view(layer.content_hash).substr(0, 12) << "  "
         << ToText(layer.update_time) << (layer.config.frozen.value_or(false) ? "  frozen" : "") << "\n";
  }

  void PrintSnapshots(const std::vector<Snapshot>& snapshots) override {
    Table table({"NAME", "OF", "LAYERS", "CREATED"}, {false, false, true, false});
    for (const Snapshot& snapshot : snapshots) {
      const LayerSelection& of = snapshot.selection;
      table.AddRow({snapshot.name, of.layer.empty() ? absl::StrCat(of.prefix, "*") : of.layer,
                    absl::StrCat(snapshot.num_layers), ToText(snapshot.create_time)});
    }
    table.Print(&out_);
  }

  void PrintRestored(absl::string_view from, int64_t num_layers) override {
    out_ << "restored " << num_layers << (num_layers == 1 ? " layer" : " layers") << " from " << from << "\n";
  }

  void PrintBackup(absl::string_view path, int64_t bytes) override {
    out_ << "wrote " << bytes << " bytes to " << path << "\n";
  }

  void PrintHealth(absl::string_view server, absl::string_view service, ServingStatus status) override {
    out_ << server << (service.empty() ? "" : " ") << service << ": " << NameOf(status) << "\n";
  }

  void PrintBench(const BenchReport& report) override { PrintBenchTables(report, &out_); }

  void PrintStatistics(absl::string_view server, const ServerStatistics& before, const ServerStatistics& now) override {
    out_ << TopFrame(server, before, now);
  }

  void PrintLogLevel(LogLevel level) override { out_ << NameOf(LogLevelNames(), level) << "\n"; }

  void PrintVersion(absl::string_view version) override { out_ << "normctl " << version << " (API normd.v1)\n"; }

 private:
  template <typename RowOf>
  static void AddRows(std::size_t count, bool all, std::size_t columns, Table* table, const RowOf& row_of) {
    std::size_t next = 0;
    for (const std::size_t i : ShownRows(count, all)) {
      if (i != next) table->AddRow(std::vector<std::string>(columns, "..."));
      table->AddRow(row_of(i));
      next = i + 1;
    }
  }

  static std::string Where(const Tensor& tensor, const Destination& destination) {
    std::string form = absl::StrCat(NameOf(tensor.dtype()), " [", absl::StrJoin(tensor.shape(), ", "), "]");
    if (!destination.path.empty()) return absl::StrCat(form, " -> ", destination.path);
    std::vector<std::string> elements;
    for (const double value : tensor.ToDoubles(kPreviewElements)) elements.push_back(Number(value));
    const bool cut = tensor.bytes().size() > kPreviewElements * ElementBytes(tensor.dtype());
    return absl::StrCat(form, "  ", absl::StrJoin(elements, " "), cut ? " ..." : "");
  }

  void PrintChannels(const Layer& layer, bool all) {
    const LayerState& state = *layer.state;
    Table table({"CHANNEL", "RUNNING_MEAN", "RUNNING_VAR", "INV_STD", "GAMMA", "BETA", "SAMPLE_COUNT"},
                std::vector<bool>(7, true));
    AddRows(static_cast<std::size_t>(layer.config.num_channels), all, 7, &table, [&](std::size_t i) {
      return std::vector<std::string>{
          absl::StrCat(i),        CellOf(state.running_mean, i), CellOf(state.running_var, i), CellOf(state.inv_std, i),
          CellOf(state.gamma, i), CellOf(state.beta, i),         CellOf(state.sample_count, i)};
    });
    table.Print(&out_);
  }

  void PrintPlots(const LayerState& state, bool ascii) {
    if (state.running_mean.empty()) return;
    std::vector<double> running_std(state.running_var.size());
    std::transform(state.running_var.begin(), state.running_var.end(), running_std.begin(),
                   [](double variance) { return std::sqrt(variance); });
    out_ << "\nChannels by value, from the least to the greatest:\n";
    PrintPlot("running_mean", state.running_mean, ascii);
    PrintPlot("sqrt(running_var)", running_std, ascii);
  }

  void PrintPlot(absl::string_view name, const std::vector<double>& values, bool ascii) {
    double low = HUGE_VAL;
    double high = -HUGE_VAL;
    std::size_t finite = 0;
    for (const double value : values) {
      if (!std::isfinite(value)) continue;
      low = std::min(low, value);
      high = std::max(high, value);
      ++finite;
    }
    out_ << absl::StreamFormat("  %-18s", name);
    if (finite > 0)
      out_ << absl::StreamFormat(" %11s |%s| %s", Number(low), Histogram(values, kPlotBins, ascii), Number(high));
    if (finite < values.size()) out_ << absl::StreamFormat("  (%d not finite)", values.size() - finite);
    out_ << "\n";
  }

  std::ostream& out_;
};

}  // namespace

std::unique_ptr<Printer> MakeTablePrinter(std::ostream* out) { return std::make_unique<TablePrinter>(out); }

}  // namespace normd::cli
