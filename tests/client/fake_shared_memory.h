#ifndef NORMD_TESTS_CLIENT_FAKE_SHARED_MEMORY_H_
#define NORMD_TESTS_CLIENT_FAKE_SHARED_MEMORY_H_

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cpp/src/handover.h"
#include "normd/v1/shared_memory_service.grpc.pb.h"
#include "normd/v1/tensor.pb.h"

namespace normd::testing {

// SharedMemoryService as a server of one process would have it: maps what is registered and checks its key. A test says
// what goes wrong. Thread-safe.
class FakeSharedMemory : public v1::SharedMemoryService::Service {
 public:
  struct Region {
    std::string session;
    std::string name;
    char* base = nullptr;
    int64_t size_bytes = 0;
  };

  ~FakeSharedMemory() override {
    for (const auto& [id, region] : all_) munmap(region.base, static_cast<std::size_t>(region.size_bytes));
  }

  // What the methods answer instead of doing their work.
  grpc::Status open_status;
  grpc::Status register_status;

  grpc::Status OpenSession(grpc::ServerContext* context, const v1::OpenSessionRequest*,
                           grpc::ServerWriter<v1::OpenSessionResponse>* writer) override {
    internal::handover::Take();
    if (!open_status.ok()) return open_status;
    std::string session;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      session = absl::StrCat("session-", ++sessions_);
      open_.push_back(session);
    }
    v1::OpenSessionResponse response;
    response.set_session(session);
    response.set_key(Key(session));
    writer->Write(response);
    std::unique_lock<std::mutex> lock(mutex_);
    // A cancelled call wakes nobody, so this looks now and then.
    while (!context->IsCancelled() && IsOpen(session)) changed_.wait_for(lock, std::chrono::milliseconds(2));
    Close(session);
    changed_.notify_all();
    internal::handover::Give();
    return {grpc::StatusCode::UNAVAILABLE, "the session ends"};
  }

  grpc::Status RegisterRegion(grpc::ServerContext*, const v1::RegisterRegionRequest* request,
                              v1::RegisterRegionResponse* response) override {
    internal::handover::Take();
    if (!register_status.ok()) return register_status;
    const int file = shm_open(request->name().c_str(), O_RDWR, 0);
    if (file < 0) return {grpc::StatusCode::NOT_FOUND, "no such object"};
    Region region{request->session(), request->name(), nullptr, request->size_bytes()};
    void* base =
        mmap(nullptr, static_cast<std::size_t>(region.size_bytes), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    EXPECT_NE(base, MAP_FAILED);
    region.base = static_cast<char*>(base);
    EXPECT_EQ(std::string(region.base, 32), Key(request->session()));
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!IsOpen(request->session())) return {grpc::StatusCode::NOT_FOUND, "no such session"};
    const std::string id = absl::StrCat("region-", all_.size());
    all_[id] = region;
    regions_[id] = region;
    response->set_region(id);
    internal::handover::Give();
    return grpc::Status::OK;
  }

  grpc::Status UnregisterRegion(grpc::ServerContext*, const v1::UnregisterRegionRequest* request,
                                v1::UnregisterRegionResponse*) override {
    internal::handover::Take();
    std::unique_lock<std::mutex> lock(mutex_);
    ++unregistering_;
    changed_.notify_all();
    // "when the calls that use it are over"
    changed_.wait(lock, [&] { return busy_.count(request->region()) == 0; });
    regions_.erase(request->region());
    changed_.notify_all();
    internal::handover::Give();
    return grpc::Status::OK;
  }

  // The range in this process, or null: no such region.
  char* Find(const v1::SharedMemoryRange& range) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto region = regions_.find(range.region());
    return region == regions_.end() ? nullptr : region->second.base + range.offset();
  }

  // A call uses the region, or no longer.
  void SetBusy(const std::string& region, bool busy) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (busy) {
      busy_.insert({region, true});
    } else {
      busy_.erase(region);
    }
    changed_.notify_all();
  }

  // Ends every session, as a restart of the server does.
  void EndSessions() {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const std::string& session : std::vector<std::string>(open_)) Close(session);
    changed_.notify_all();
  }
  // Forgets the regions, but not the sessions.
  void ForgetRegions() {
    const std::lock_guard<std::mutex> lock(mutex_);
    regions_.clear();
  }

  void WaitForUnregistering(int count) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return unregistering_ >= count; });
  }
  void WaitForRegions(std::size_t count) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait_for(lock, std::chrono::seconds(20), [&] { return regions_.size() == count; });
    EXPECT_EQ(regions_.size(), count);
  }

  // Those that were ever registered.
  std::vector<Region> all() {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::vector<Region> all;
    for (const auto& [id, region] : all_) all.push_back(region);
    return all;
  }
  int sessions() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return sessions_;
  }

 private:
  static std::string Key(const std::string& session) { return (session + std::string(32, 'k')).substr(0, 32); }
  bool IsOpen(const std::string& session) { return std::count(open_.begin(), open_.end(), session) > 0; }
  void Close(const std::string& session) {
    open_.erase(std::remove(open_.begin(), open_.end(), session), open_.end());
    std::erase_if(regions_, [&](const auto& entry) { return entry.second.session == session; });
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  int sessions_ = 0;
  int unregistering_ = 0;
  std::vector<std::string> open_;
  std::map<std::string, Region> regions_;
  std::map<std::string, Region> all_;
  std::map<std::string, bool> busy_;
};

}  // namespace normd::testing

#endif  // NORMD_TESTS_CLIENT_FAKE_SHARED_MEMORY_H_
