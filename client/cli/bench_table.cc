#include "client/cli/bench_table.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/cli/names.h"
#include "client/cli/table.h"

namespace normd::cli {
namespace {

// The windows by number, and the last row for all of them.
std::vector<std::pair<std::string, const BenchWindow*>> RowsOf(const BenchReport& report) {
  std::vector<std::pair<std::string, const BenchWindow*>> rows;
  for (std::size_t i = 0; i < report.windows.size(); ++i) rows.emplace_back(absl::StrCat(i + 1), &report.windows[i]);
  rows.emplace_back("all", &report.total);
  return rows;
}

void PrintSettings(const BenchReport& report, std::ostream* out) {
  const BenchOptions& options = report.options;
  const auto pair = [out](absl::string_view key, const std::string& value) {
    *out << absl::StreamFormat("  %-10s %s\n", key, value);
  };
  std::string calls = "infer";
  if (options.train_fraction > 0) {
    calls = options.train_fraction < 1 ? absl::StrFormat("infer, and %.3g %% train", options.train_fraction * 100)
                                       : "train";
  }
  std::vector<std::string> shapes;
  for (const std::vector<int64_t>& shape : options.shapes) {
    shapes.push_back(absl::StrCat("[", absl::StrJoin(shape, ", "), "]"));
  }
  *out << report.server << "\n";
  pair("calls", calls);
  pair("tensors", absl::StrCat(NameOf(options.dtype), " ", absl::StrJoin(shapes, ", "), " ",
                               NameOf(LayoutNames(), options.layout)));
  pair("layer", options.layer.empty() ? "a temporary one" : options.layer);
  pair("load", absl::StrCat(options.open_loop()
                                ? absl::StrCat("open loop, ", Number(options.rate), " calls/s, at most ",
                                               MaxInFlight(options), " under way")
                                : absl::StrCat("closed loop, ", Counted(options.concurrency, "call"), " under way"),
                            ", ", Counted(options.connections, "connection"),
                            options.transport == Transport::kSharedMemory ? ", tensors in shared memory" : ""));
  pair("time", absl::StrCat(Counted(static_cast<int64_t>(report.windows.size()), "window"), " of ",
                            absl::FormatDuration(options.duration), " after ", absl::FormatDuration(options.warmup),
                            " of warm-up"));
}

void PrintThroughput(const BenchReport& report, std::ostream* out) {
  const bool open_loop = report.options.open_loop();
  std::vector<std::string> header = {"WINDOW", "REQUESTS", "ERRORS", "OK/S", "MB/S SENT", "MB/S RECEIVED"};
  if (open_loop) header.insert(header.begin() + 1, {"DUE", "NOT SENT"});
  const std::vector<bool> right(header.size(), true);
  Table table(std::move(header), right);
  for (const auto& [name, window] : RowsOf(report)) {
    const absl::Duration time = window == &report.total ? report.TotalTime() : report.options.duration;
    const double seconds = absl::ToDoubleSeconds(time);
    std::vector<std::string> row = {name,
                                    absl::StrCat(window->ok() + window->failed()),
                                    absl::StrCat(window->failed()),
                                    RateText(static_cast<double>(window->ok()) / seconds),
                                    RateText(static_cast<double>(window->bytes_sent()) / 1e6 / seconds),
                                    RateText(static_cast<double>(window->bytes_received()) / 1e6 / seconds)};
    if (open_loop) {
      row.insert(row.begin() + 1, {absl::StrCat(window->started + window->not_sent), absl::StrCat(window->not_sent)});
    }
    table.AddRow(std::move(row));
  }
  table.Print(out);
}

void PrintLatencies(const BenchReport& report, std::ostream* out) {
  Table table({"LATENCY", "", "MEAN", "P50", "P90", "P99", "P99.9", "MAX"},
              {true, false, true, true, true, true, true, true});
  for (const BenchCall kind : report.kinds()) {
    for (const auto& [name, window] : RowsOf(report)) {
      const LatencyHistogram& latency = window->of(kind).latency;
      std::vector<std::string> row = {name, NameOf(kind)};
      row.push_back(latency.count() > 0 ? LatencyText(static_cast<int64_t>(latency.mean())) : "-");
      for (const int per_mille : {500, 900, 990, 999, 1000}) {
        const bool shown = per_mille == 999 ? latency.HasTail(per_mille) : latency.count() > 0;
        row.push_back(shown ? LatencyText(latency.AtPerMille(per_mille)) : "-");
      }
      table.AddRow(std::move(row));
    }
  }
  table.Print(out);
}

void PrintErrors(const BenchReport& report, std::ostream* out) {
  Table table({"ERROR", "CALLS", "FIRST MESSAGE"}, {false, true, false});
  for (const auto& [code, count] : report.total.errors()) {
    const auto message = report.messages.find(code);
    table.AddRow(
        {absl::StatusCodeToString(code), absl::StrCat(count), message == report.messages.end() ? "" : message->second});
  }
  *out << "\n";
  table.Print(out);
}

}  // namespace

void PrintBenchTables(const BenchReport& report, std::ostream* out) {
  PrintSettings(report, out);
  *out << "\n";
  PrintThroughput(report, out);
  *out << "\n";
  PrintLatencies(report, out);
  if (report.total.failed() > 0) PrintErrors(report, out);
  const std::vector<std::string> warnings = report.warnings();
  const std::vector<std::string> notes = report.notes();
  if (!warnings.empty() || !notes.empty()) *out << "\n";
  for (const std::string& warning : warnings) *out << "warning: " << warning << "\n";
  for (const std::string& note : notes) *out << "note: " << note << "\n";
}

}  // namespace normd::cli
