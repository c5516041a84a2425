#ifndef NORMD_TESTS_INTEGRATION_HELD_SERVER_H_
#define NORMD_TESTS_INTEGRATION_HELD_SERVER_H_

#include <grpcpp/client_context.h>
#include <gtest/gtest.h>
#include <spdlog/sinks/sink.h>

#include <chrono>
#include <condition_variable>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/integration/test_server.h"

// Calls that stay where a test wants them.
namespace normd::tests {

// A log that keeps its lines, and holds back whoever logs one that contains a given text: a call stays in progress,
// computed and not answered, for as long as a test wants.
class HoldingSink final : public spdlog::sinks::sink {
 public:
  explicit HoldingSink(std::string text) : text_(std::move(text)) {}

  void log(const spdlog::details::log_msg& message) override {
    const std::string line(message.payload.data(), message.payload.size());
    std::unique_lock<std::mutex> lock(mutex_);
    lines_.push_back(line);
    if (line.find(text_) == std::string::npos) return;
    ++held_;
    changed_.notify_all();
    changed_.wait(lock, [this] { return released_; });
  }
  void flush() override {}
  void set_pattern(const std::string&) override {}
  void set_formatter(std::unique_ptr<spdlog::formatter>) override {}

  void AwaitHeld() {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return held_ > 0; });
  }
  void Release() {
    const std::lock_guard<std::mutex> lock(mutex_);
    released_ = true;
    changed_.notify_all();
  }
  bool Contains(const std::string& text) {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const std::string& line : lines_) {
      if (line.find(text) != std::string::npos) return true;
    }
    return false;
  }

 private:
  const std::string text_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::string> lines_;
  int held_ = 0;
  bool released_ = false;
};

// A TrainStep that is on its way.
class AsyncTrainStep {
 public:
  AsyncTrainStep(v1::NormalizationService::Stub& stub, const std::string& layer, const v1::Tensor& x,
                 std::chrono::milliseconds timeout = std::chrono::seconds(120)) {
    request_.set_layer(layer);
    *request_.mutable_x() = x;
    context_.set_deadline(std::chrono::system_clock::now() + timeout);
    stub.async()->TrainStep(&context_, &request_, &response_,
                            [this](grpc::Status status) { done_.set_value(std::move(status)); });
  }
  void Cancel() { context_.TryCancel(); }
  grpc::Status Wait() { return done_.get_future().get(); }

 private:
  grpc::ClientContext context_;
  v1::TrainStepRequest request_;
  v1::TrainStepResponse response_;
  std::promise<grpc::Status> done_;
};

// 4 MiB, which is for the compute thread.
inline v1::Tensor LargeX() {
  return MakeTensor(std::vector<int64_t>{64, 2, 64, 64}, SomeValues(int64_t{64} * 2 * 64 * 64));
}

// A server whose compute thread a TrainStep on layer 'hold' can occupy.
class HeldServer {
 public:
  HeldServer() : sink_(std::make_shared<HoldingSink>("method=TrainStep layer=hold")), server_(Options(), sink_) {
    server_.Create("hold", 2);
    server_.Create("bn", 2);
  }
  ~HeldServer() { sink_->Release(); }

  static app::ServerOptions Options() {
    app::ServerOptions options = TestOptions();
    options.threads = 2;
    options.max_waiting_calls = 1;
    return options;
  }
  TestServer& server() { return server_; }
  HoldingSink& sink() { return *sink_; }

 private:
  std::shared_ptr<HoldingSink> sink_;
  TestServer server_;
};

}  // namespace normd::tests

#endif  // NORMD_TESTS_INTEGRATION_HELD_SERVER_H_
