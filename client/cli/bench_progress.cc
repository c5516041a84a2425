#include "client/cli/bench_progress.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "client/cli/bench_report.h"

namespace normd::cli {
namespace {

constexpr int64_t kPauseNs = 200'000'000;

bool CanRewriteLines() {
  const char* const terminal = std::getenv("TERM");
  return isatty(STDERR_FILENO) == 1 && terminal != nullptr && absl::string_view(terminal) != "dumb";
}

}  // namespace

std::string BenchProgressLine(const BenchRecorder& recorder, int64_t now_ns) {
  const BenchTimeline& timeline = recorder.timeline();
  const int index = timeline.WindowAt(now_ns);
  const BenchWindow window = recorder.Window(index);
  if (index == timeline.windows) {
    return absl::StrCat("waiting for ", Counted(window.under_way_after, "call"), " under way");
  }
  const int64_t start =
      index < 0 ? timeline.start_ns : timeline.start_ns + timeline.warmup_ns + index * timeline.window_ns;
  const double seconds = std::max(1e-3, static_cast<double>(now_ns - start) / 1e9);
  std::string line = index < 0 ? "warm-up" : absl::StrCat("window ", index + 1, "/", timeline.windows);
  absl::StrAppend(&line, absl::StrFormat("  %.1f s  ", seconds), RateText(static_cast<double>(window.ok()) / seconds),
                  " ok/s");
  LatencyHistogram latency;
  for (const BenchCallStats& call : window.calls) latency.Merge(call.latency);
  if (latency.count() > 0) {
    absl::StrAppend(&line, "  p50 ", LatencyText(latency.AtPerMille(500)), "  p99 ",
                    LatencyText(latency.AtPerMille(990)));
  }
  if (window.not_sent > 0) absl::StrAppend(&line, "  ", window.not_sent, " not sent");
  if (window.failed() > 0) absl::StrAppend(&line, "  ", Counted(window.failed(), "error"));
  return line;
}

BenchProgress::BenchProgress() : visible_(CanRewriteLines()) {}

BenchProgress::~BenchProgress() {
  if (visible_) std::cerr << "\r\033[K" << std::flush;
}

void BenchProgress::Show(const BenchRecorder& recorder, int64_t now_ns) {
  if (!visible_ || now_ns - shown_ns_ < kPauseNs) return;
  shown_ns_ = now_ns;
  std::cerr << "\r" << BenchProgressLine(recorder, now_ns) << "\033[K" << std::flush;
}

}  // namespace normd::cli
