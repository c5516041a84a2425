#include "proto/wire/buffer_pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <optional>
#include <random>
#include <thread>
#include <utility>
#include <vector>

namespace normd::wire {
namespace {

constexpr int64_t kMiB = 1 << 20;

bool FilledWith(const Buffer& buffer, int value) {
  for (std::size_t i = 0; i < buffer.size(); ++i) {
    if (buffer.data()[i] != static_cast<char>(value)) return false;
  }
  return true;
}

TEST(BufferPool, EverySizeIsAlignedAndCostsAtMostAQuarterMore) {
  BufferPool pool(1000 * kMiB);
  for (std::size_t size = 1; size < std::size_t{100} << 20; size += size / 7 + 1) {
    SCOPED_TRACE(size);
    Buffer buffer = pool.Allocate(size);
    ASSERT_TRUE(buffer);
    EXPECT_EQ(buffer.size(), size);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer.data()) % 64, 0);
    buffer.data()[0] = buffer.data()[size - 1] = 'x';
    EXPECT_GE(pool.in_use_bytes(), static_cast<int64_t>(size));
    EXPECT_LE(pool.in_use_bytes(), static_cast<int64_t>(size + std::max<std::size_t>(size / 4, 63)));
    buffer = Buffer();
    EXPECT_EQ(pool.in_use_bytes(), 0);
    pool.ReleaseKept(absl::ZeroDuration());
    EXPECT_EQ(pool.kept_bytes(), 0);
  }
  EXPECT_TRUE(pool.Allocate(0));
}

TEST(BufferPool, MemoryComesBackAndIsLentAgain) {
  BufferPool pool(10 * kMiB);
  Buffer first = pool.Allocate(kMiB);
  const char* const data = first.data();
  first = Buffer();
  EXPECT_EQ(pool.in_use_bytes(), 0);
  EXPECT_EQ(pool.kept_bytes(), kMiB);
  // Another size of the same class.
  const Buffer second = pool.Allocate(kMiB - 1000);
  EXPECT_EQ(second.data(), data);
  EXPECT_EQ(pool.in_use_bytes(), kMiB);
  EXPECT_EQ(pool.kept_bytes(), 0);
  const Buffer third = pool.Allocate(kMiB);
  EXPECT_NE(third.data(), data);
  EXPECT_EQ(pool.peak_bytes(), 2 * kMiB);
}

TEST(BufferPool, TheOneThatCameBackLastIsLentFirst) {
  BufferPool pool(10 * kMiB);
  Buffer a = pool.Allocate(kMiB);
  Buffer b = pool.Allocate(kMiB);
  const char* const last = a.data();
  b = Buffer();
  a = Buffer();
  EXPECT_EQ(pool.Allocate(kMiB).data(), last);
}

TEST(BufferPool, WhatOnlyACoincidenceNeededIsNotKept) {
  BufferPool pool(10 * kMiB);
  grpc::Slice sent = pool.Allocate(kMiB).ToSlice();
  pool.Allocate(kMiB);
  EXPECT_EQ(pool.kept_bytes(), 0);
  EXPECT_EQ(pool.in_use_bytes(), kMiB);
  // Other sizes have nothing to do with it.
  pool.Allocate(2 * kMiB);
  EXPECT_EQ(pool.kept_bytes(), 2 * kMiB);
  // Once it is sent, it is there for all.
  sent = grpc::Slice();
  pool.Allocate(kMiB);
  EXPECT_EQ(pool.kept_bytes(), 3 * kMiB);
}

TEST(BufferPool, WhatIsOftenNeededBesideOthersThatAreSentIsKept) {
  BufferPool pool(10 * kMiB);
  const grpc::Slice sent = pool.Allocate(kMiB).ToSlice();
  // One after the other, unless this process is kept from its work for long.
  for (int i = 0; i < 1000 && pool.kept_bytes() == 0; ++i) pool.Allocate(kMiB);
  EXPECT_EQ(pool.kept_bytes(), kMiB);
}

TEST(BufferPool, SmallBuffersAreNotKept) {
  BufferPool pool(kMiB);
  pool.Allocate(1000);
  EXPECT_EQ(pool.kept_bytes(), 0);
  EXPECT_EQ(pool.peak_bytes(), 1024);
}

TEST(BufferPool, WithoutRoomNothingChanges) {
  BufferPool pool(4 * kMiB);
  const Buffer held = pool.Allocate(2 * kMiB);
  { const Buffer kept = pool.Allocate(kMiB); }
  const BufferPool::Reservation reserved = pool.Reserve(kMiB);
  ASSERT_TRUE(reserved);
  for (const std::size_t size :
       {std::size_t{2} << 20, std::size_t{5} << 20, std::size_t{1} << 40, std::numeric_limits<std::size_t>::max() / 2,
        std::numeric_limits<std::size_t>::max()}) {
    SCOPED_TRACE(size);
    const Buffer refused = pool.Allocate(size);
    EXPECT_FALSE(refused);
    EXPECT_EQ(refused.data(), nullptr);
    EXPECT_EQ(refused.size(), 0);
    EXPECT_FALSE(pool.Reserve(size));
    EXPECT_EQ(pool.in_use_bytes(), 3 * kMiB);
    EXPECT_EQ(pool.kept_bytes(), kMiB);
  }
  EXPECT_TRUE(pool.Allocate(kMiB));
}

TEST(BufferPool, WhatIsKeptMakesRoomTheOldestFirst) {
  BufferPool pool(8 * kMiB);
  {
    Buffer old = pool.Allocate(2 * kMiB);
    Buffer young = pool.Allocate(4 * kMiB);
    old = Buffer();
  }
  EXPECT_EQ(pool.kept_bytes(), 6 * kMiB);
  {
    // 2 are free; the third comes from the older of the two.
    const Buffer buffer = pool.Allocate(3 * kMiB);
    ASSERT_TRUE(buffer);
    EXPECT_EQ(pool.kept_bytes(), 4 * kMiB);
    // And the rest for a reservation.
    EXPECT_TRUE(pool.Reserve(5 * kMiB));
    EXPECT_EQ(pool.kept_bytes(), 0);
  }
  EXPECT_EQ(pool.peak_bytes(), 8 * kMiB);
}

TEST(BufferPool, ReleaseKeptGivesBackWhatIsUnusedForLongEnough) {
  BufferPool pool(8 * kMiB);
  pool.Allocate(kMiB);
  pool.ReleaseKept(absl::Hours(1));
  EXPECT_EQ(pool.kept_bytes(), kMiB);
  const Buffer held = pool.Allocate(2 * kMiB);
  pool.ReleaseKept(absl::ZeroDuration());
  EXPECT_EQ(pool.kept_bytes(), 0);
  EXPECT_EQ(pool.in_use_bytes(), 2 * kMiB);
}

TEST(BufferPool, ReservationsCountWhileTheyLive) {
  BufferPool pool(100);
  BufferPool::Reservation a = pool.Reserve(60);
  ASSERT_TRUE(a);
  EXPECT_FALSE(pool.Reserve(41));
  BufferPool::Reservation b = pool.Reserve(40);
  ASSERT_TRUE(b);
  EXPECT_EQ(pool.in_use_bytes(), 100);
  a = std::move(b);
  EXPECT_EQ(pool.in_use_bytes(), 40);
  a.Release();
  a.Release();
  EXPECT_FALSE(a);
  EXPECT_EQ(pool.in_use_bytes(), 0);
  EXPECT_TRUE(pool.Reserve(0));
  EXPECT_EQ(pool.peak_bytes(), 100);
  EXPECT_EQ(pool.budget_bytes(), 100);
}

TEST(BufferPool, ABudgetOfNothing) {
  BufferPool pool(0);
  EXPECT_FALSE(pool.Allocate(1));
  EXPECT_FALSE(pool.Reserve(1));
  EXPECT_FALSE(BufferPool(-5).Allocate(1));
}

TEST(BufferPool, BuffersOutliveThePool) {
  auto pool = std::make_unique<BufferPool>(8 * kMiB);
  Buffer buffer = pool->Allocate(kMiB);
  Buffer small = pool->Allocate(10);
  BufferPool::Reservation reservation = pool->Reserve(100);
  grpc::Slice slice = pool->Allocate(kMiB).ToSlice();
  pool.reset();
  std::memset(buffer.data(), 7, buffer.size());
  EXPECT_TRUE(FilledWith(buffer, 7));
  buffer = std::move(small);
  EXPECT_EQ(buffer.size(), 10);
  EXPECT_EQ(slice.size(), kMiB);
}

TEST(BufferPool, ASliceGivesBackWhenItsLastOwnerGoes) {
  BufferPool pool(8 * kMiB);
  for (const std::size_t size : {std::size_t{1}, std::size_t{1000}, std::size_t{1} << 20}) {
    Buffer buffer = pool.Allocate(size);
    std::memset(buffer.data(), 5, size);
    const char* const data = buffer.data();
    std::optional<grpc::Slice> slice = std::move(buffer).ToSlice();
    EXPECT_EQ(buffer.data(), nullptr);  // NOLINT(bugprone-use-after-move): what is left is an empty buffer.
    EXPECT_EQ(reinterpret_cast<const char*>(slice->begin()), data);
    EXPECT_EQ(slice->size(), size);
    std::optional<grpc::Slice> copy = *slice;
    slice.reset();
    EXPECT_GE(pool.in_use_bytes(), static_cast<int64_t>(size));
    EXPECT_EQ(copy->begin()[size - 1], 5);
    copy.reset();
    EXPECT_EQ(pool.in_use_bytes(), 0);
  }
  EXPECT_EQ(Buffer().ToSlice().size(), 0);
}

TEST(BufferPool, MovesLeaveAnEmptyBuffer) {
  BufferPool pool(kMiB);
  Buffer a = pool.Allocate(100);
  Buffer b = std::move(a);
  EXPECT_FALSE(a);  // NOLINT(bugprone-use-after-move): documented.
  EXPECT_TRUE(b);
  Buffer& same = b;
  b = std::move(same);
  EXPECT_TRUE(b);
  b = pool.Allocate(200);
  EXPECT_EQ(b.size(), 200);
  EXPECT_EQ(pool.in_use_bytes(), 256);
}

// Threads that take, fill, check and return: nobody's memory is another's, and the budget holds throughout.
TEST(BufferPool, ManyThreads) {
  BufferPool pool(6 * kMiB);
  std::vector<std::thread> threads;
  for (int t = 1; t <= 4; ++t) {
    threads.emplace_back([&pool, t] {
      std::mt19937 random(static_cast<std::uint32_t>(t));
      std::vector<Buffer> held;
      for (int i = 0; i < 400; ++i) {
        Buffer buffer = pool.Allocate(random() % 2 == 0 ? random() % 5000 : random() % (1 << 20));
        if (buffer) {
          std::memset(buffer.data(), t, buffer.size());
          held.push_back(std::move(buffer));
        }
        const BufferPool::Reservation reservation = pool.Reserve(random() % 100000);
        if (random() % 50 == 0) pool.ReleaseKept(absl::ZeroDuration());
        EXPECT_LE(pool.in_use_bytes(), pool.budget_bytes());
        if (held.size() < 4) continue;
        const std::size_t which = random() % held.size();
        EXPECT_TRUE(FilledWith(held[which], t));
        if (random() % 2 == 0) {
          const grpc::Slice slice = std::move(held[which]).ToSlice();
        }
        held.erase(held.begin() + static_cast<std::ptrdiff_t>(which));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(pool.in_use_bytes(), 0);
  EXPECT_LE(pool.peak_bytes(), pool.budget_bytes());
  EXPECT_GT(pool.peak_bytes(), kMiB);
}

}  // namespace
}  // namespace normd::wire
