#pragma once

#include <spdlog/details/log_msg.h>
#include <spdlog/sinks/base_sink.h>

#include <mutex>
#include <string>

namespace normd::tests {

// A sink for a server's Logger that keeps the lines in memory. Thread-safe: a test may read while calls are served.
class CapturedLog : public spdlog::sinks::base_sink<std::mutex> {
 public:
  // Everything logged since the start or the last Clear().
  std::string Text() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return text_;
  }

  void Clear() {
    const std::lock_guard<std::mutex> lock(mutex_);
    text_.clear();
  }

 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    spdlog::memory_buf_t line;
    formatter_->format(message, line);
    text_.append(line.data(), line.size());
  }
  void flush_() override {}

 private:
  std::string text_;
};

}  // namespace normd::tests
