#ifndef NORMD_CLIENT_CLI_PRINTER_H_
#define NORMD_CLIENT_CLI_PRINTER_H_

#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "client/cli/bench_report.h"
#include "normd/client.h"
#include "normd/layer.h"
#include "normd/tensor.h"

namespace normd::cli {

// Where the tensor of an answer has gone.
struct Destination {
  // Empty: nowhere, the printer shows it.
  std::string path;
};

struct DescribeStyle {
  // Every channel instead of the first and the last few.
  bool all = false;
  // Plots without Unicode.
  bool ascii = false;
};

// Shows the results of the verbs, as a table for people or as JSON for programs. JSON is complete: every field of the
// API under the name that it has on the wire, NaN and infinities as the strings "NaN", "Infinity", "-Infinity".
class Printer {
 public:
  virtual ~Printer() = default;

  // A layer, with its state if it is there.
  virtual void PrintLayer(const Layer& layer) = 0;
  virtual void PrintLayers(const std::vector<Layer>& layers) = 0;
  // A layer with its state, channel by channel.
  virtual void PrintDescription(const Layer& layer, const DescribeStyle& style) = 0;
  virtual void PrintDeleted(absl::string_view name) = 0;
  virtual void PrintTrainStep(absl::string_view layer, const TrainStepResult& result, const Destination& y) = 0;
  // Of Infer (`what` is "y") and Denormalize ("x").
  virtual void PrintInference(absl::string_view layer, absl::string_view what, const InferResult& result,
                              const Destination& output) = 0;
  virtual void PrintChange(const LayerChange& change) = 0;
  virtual void PrintSnapshots(const std::vector<Snapshot>& snapshots) = 0;
  // `from`: a snapshot or a file.
  virtual void PrintRestored(absl::string_view from, int64_t num_layers) = 0;
  virtual void PrintBackup(absl::string_view path, int64_t bytes) = 0;
  virtual void PrintHealth(absl::string_view server, absl::string_view service, ServingStatus status) = 0;
  virtual void PrintBench(const BenchReport& report) = 0;
  // `now` as it is, and how it differs from `before`.
  virtual void PrintStatistics(absl::string_view server, const ServerStatistics& before,
                               const ServerStatistics& now) = 0;
  virtual void PrintLogLevel(LogLevel level) = 0;
  virtual void PrintVersion(absl::string_view version) = 0;
};

std::unique_ptr<Printer> MakeTablePrinter(std::ostream* out);
std::unique_ptr<Printer> MakeJsonPrinter(std::ostream* out);

}  // namespace normd::cli

#endif  // NORMD_CLIENT_CLI_PRINTER_H_
