#include "client/cli/bench_stats.h"

#include <algorithm>

namespace normd::cli {

BenchTimeline BenchTimeline::From(int64_t start_ns, const BenchOptions& options) {
  return {start_ns, absl::ToInt64Nanoseconds(options.warmup), absl::ToInt64Nanoseconds(options.duration),
          options.windows};
}

int BenchTimeline::WindowAt(int64_t t_ns) const {
  const int64_t since = t_ns - start_ns - warmup_ns;
  if (since < 0) return -1;
  return static_cast<int>(std::min<int64_t>(since / window_ns, windows));
}

int64_t BenchCallStats::failed() const {
  int64_t sum = 0;
  for (const auto& [code, count] : errors) sum += count;
  return sum;
}

void BenchCallStats::Merge(const BenchCallStats& other) {
  latency.Merge(other.latency);
  for (const auto& [code, count] : other.errors) errors[code] += count;
  bytes_sent += other.bytes_sent;
  bytes_received += other.bytes_received;
}

int64_t BenchWindow::ok() const {
  int64_t sum = 0;
  for (const BenchCallStats& call : calls) sum += call.ok();
  return sum;
}

int64_t BenchWindow::failed() const {
  int64_t sum = 0;
  for (const BenchCallStats& call : calls) sum += call.failed();
  return sum;
}

std::map<absl::StatusCode, int64_t> BenchWindow::errors() const {
  std::map<absl::StatusCode, int64_t> sums;
  for (const BenchCallStats& call : calls) {
    for (const auto& [code, count] : call.errors) sums[code] += count;
  }
  return sums;
}

int64_t BenchWindow::bytes_sent() const {
  int64_t sum = 0;
  for (const BenchCallStats& call : calls) sum += call.bytes_sent;
  return sum;
}

int64_t BenchWindow::bytes_received() const {
  int64_t sum = 0;
  for (const BenchCallStats& call : calls) sum += call.bytes_received;
  return sum;
}

void BenchWindow::Append(const BenchWindow& next) {
  for (std::size_t i = 0; i < calls.size(); ++i) calls[i].Merge(next.calls[i]);
  started += next.started;
  not_sent += next.not_sent;
  under_way_after = next.under_way_after;
  send_delay.Merge(next.send_delay);
}

BenchRecorder::BenchRecorder(const BenchTimeline& timeline)
    : timeline_(timeline), windows_(static_cast<std::size_t>(timeline.windows) + 2) {}

void BenchRecorder::Started(int64_t due_ns, int64_t sent_ns) {
  const std::lock_guard<std::mutex> lock(mutex_);
  BenchWindow& window = At(due_ns);
  ++window.started;
  window.send_delay.Add(sent_ns - due_ns);
}

void BenchRecorder::NotSent(int64_t due_ns) {
  const std::lock_guard<std::mutex> lock(mutex_);
  ++At(due_ns).not_sent;
}

void BenchRecorder::Ended(BenchCall call, int64_t due_ns, int64_t ended_ns, int64_t bytes_sent,
                          const absl::StatusOr<int64_t>& received) {
  const std::lock_guard<std::mutex> lock(mutex_);
  BenchCallStats& stats = At(ended_ns).calls[static_cast<std::size_t>(call)];
  if (received.ok()) {
    stats.latency.Add(ended_ns - due_ns);
    stats.bytes_sent += bytes_sent;
    stats.bytes_received += *received;
    return;
  }
  const absl::Status& status = received.status();
  ++stats.errors[status.code()];
  messages_.emplace(status.code(), std::string(status.message()));
  if (first_error_.ok()) first_error_ = status;
}

BenchWindow BenchRecorder::Window(int window) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto at = PlaceOf(window);
  BenchWindow out = windows_[at];
  for (std::size_t i = 0; i < at; ++i) {
    out.under_way_before += windows_[i].started - windows_[i].ok() - windows_[i].failed();
  }
  out.under_way_after = out.under_way_before + out.started - out.ok() - out.failed();
  return out;
}

std::map<absl::StatusCode, std::string> BenchRecorder::messages() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return messages_;
}

absl::Status BenchRecorder::first_error() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return first_error_;
}

}  // namespace normd::cli
