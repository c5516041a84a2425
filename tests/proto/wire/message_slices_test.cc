#include "proto/wire/message_slices.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "tests/proto/wire/encoding.h"

namespace normd::wire {
namespace {

using tests::BytesField;
using tests::CopiedSlice;
using tests::Group;
using tests::HeapSlice;
using tests::InPieces;
using tests::Tag;
using tests::Varint;
using tests::VarintField;

// Every range of the message reads as it stands in `message`; `borders` are the positions between its slices.
void ExpectEveryRange(const MessageSlices& slices, const std::string& message,
                      const std::vector<std::size_t>& borders) {
  ASSERT_EQ(slices.size(), message.size());
  for (std::size_t begin = 0; begin <= message.size(); ++begin) {
    for (std::size_t size = 0; begin + size <= message.size(); ++size) {
      const std::string want = message.substr(begin, size);
      std::string copy(size, '\0');
      slices.Copy(begin, size, copy.data());
      ASSERT_EQ(copy, want);
      std::string appended = "before";
      slices.Append(begin, size, &appended);
      ASSERT_EQ(appended, "before" + want);
      bool astride = false;
      for (const std::size_t border : borders) astride |= begin < border && border < begin + size;
      std::string together;
      int pieces = 0;
      slices.ForEachPiece(begin, size, [&](absl::Span<const char> piece) {
        EXPECT_FALSE(piece.empty());
        together.append(piece.begin(), piece.end());
        ++pieces;
      });
      ASSERT_EQ(together, want) << begin << "+" << size;
      ASSERT_EQ(pieces > 1, astride) << begin << "+" << size;
    }
  }
}

TEST(MessageSlices, EveryCutGivesTheSameBytes) {
  const std::string message = "0123456789abcdefghij";
  for (std::size_t i = 0; i <= message.size(); ++i) {
    for (std::size_t j = i; j <= message.size(); ++j) {
      // Empty slices included: the first, between, the last.
      const grpc::ByteBuffer buffer = InPieces(message, {i, j - i, message.size() - j});
      ExpectEveryRange(MessageSlices(buffer), message, {i, j});
    }
  }
}

TEST(MessageSlices, OneByteASlice) {
  const std::string message = "0123456789";
  std::vector<std::size_t> borders;
  for (std::size_t i = 0; i < message.size(); ++i) borders.push_back(i);
  ExpectEveryRange(MessageSlices(InPieces(message, std::vector<std::size_t>(message.size(), 1))), message, borders);
}

// gRPC keeps the bytes of short slices inside them: they must not be looked at where they no longer are.
TEST(MessageSlices, InlinedSlicesMayMove) {
  // 23 bytes are the most; gRPC fills shorter ones up.
  const std::string message = "0123456789abcdefghijklmnopqrstuvwxyz0123456789";
  MessageSlices slices;
  {
    MessageSlices first(InPieces(message, {23}, CopiedSlice));
    slices = std::move(first);
  }
  ExpectEveryRange(slices, message, {23});
  ExpectEveryRange(MessageSlices(InPieces(message, {}, CopiedSlice)), message, {});
}

TEST(MessageSlices, SharesTheBytes) {
  const grpc::Slice slice = HeapSlice("0123456789abcdefghijklmnopqrstuvwxyz");
  const grpc::ByteBuffer buffer(&slice, 1);
  const MessageSlices slices(buffer);
  slices.ForEachPiece(3, 5, [&slice](absl::Span<const char> piece) {
    EXPECT_EQ(piece.data(), reinterpret_cast<const char*>(slice.begin()) + 3);
    EXPECT_EQ(piece.size(), 5U);
  });
}

TEST(MessageSlices, NothingAtAll) {
  for (const grpc::ByteBuffer& buffer : {grpc::ByteBuffer(), InPieces("", {}), InPieces("", {0, 0, 0})}) {
    ExpectEveryRange(MessageSlices(buffer), "", {});
    const MessageSlices slices(buffer);
    MessageCursor cursor(&slices);
    EXPECT_EQ(cursor.position(), 0);
    EXPECT_TRUE(cursor.Skip(0));
    EXPECT_FALSE(cursor.Skip(1));
    std::uint32_t tag = 0;
    EXPECT_FALSE(MessageCursor(&slices).ReadTag(&tag));
  }
}

// Calls f(cursor) with a cursor on the message for every way to cut it into three, with an empty slice at each cut.
template <typename F>
void ForEveryCut(const std::string& message, const F& f) {
  for (std::size_t i = 0; i <= message.size(); ++i) {
    for (std::size_t j = i; j <= message.size(); ++j) {
      const MessageSlices slices(InPieces(message, {i, 0, j - i, 0, message.size() - j}));
      SCOPED_TRACE(::testing::Message() << "cut at " << i << " and " << j);
      f(MessageCursor(&slices));
    }
  }
}

TEST(MessageCursor, Tags) {
  struct {
    const char* name;
    std::string bytes;
    bool ok;
    std::uint32_t tag;
  } const cases[] = {
      {"one byte", Varint(0x0A), true, 0x0A},
      {"two bytes", Varint(0x3FFF), true, 0x3FFF},
      {"three bytes", Varint(0x1FFFFF), true, 0x1FFFFF},
      {"four bytes", Varint(0xFFFFFFF), true, 0xFFFFFFF},
      {"five bytes", Varint(0xFFFFFFFF), true, 0xFFFFFFFF},
      {"a short one in five bytes", Varint(0x0A, 5), true, 0x0A},
      {"bits above 32 do not count", Varint(0x7'0000'000A), true, 0x0A},
      {"six bytes", Varint(0x0A, 6), false, 0},
      {"zero", Varint(0), false, 0},
      {"field number zero", Varint(7), false, 0},
      {"field number zero in the low 32 bits", Varint(0x7'0000'0002), false, 0},
      {"nothing", "", false, 0},
      {"cut off", "\x80\x80", false, 0},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.name);
    ForEveryCut(c.bytes, [&](MessageCursor cursor) {
      std::uint32_t tag = 0;
      ASSERT_EQ(cursor.ReadTag(&tag), c.ok);
      if (!c.ok) return;
      EXPECT_EQ(tag, c.tag);
      EXPECT_EQ(cursor.position(), c.bytes.size());
    });
  }
}

TEST(MessageCursor, Lengths) {
  struct {
    const char* name;
    std::string bytes;
    bool ok;
    std::size_t length;
  } const cases[] = {
      {"zero", Varint(0), true, 0},
      {"one byte", Varint(0x7F), true, 0x7F},
      {"two bytes", Varint(0x3FFF), true, 0x3FFF},
      {"three bytes", Varint(0x1FFFFF), true, 0x1FFFFF},
      {"four bytes", Varint(0xFFFFFFF), true, 0xFFFFFFF},
      {"the largest", Varint(0x7FFFFFFF), true, 0x7FFFFFFF},
      {"a short one in five bytes", Varint(3, 5), true, 3},
      {"2 GiB", Varint(0x80000000), false, 0},
      {"4 GiB and a little is not a little", Varint(0x1'0000'0003), false, 0},
      {"six bytes", Varint(3, 6), false, 0},
      {"nothing", "", false, 0},
      {"cut off", "\xFF\xFF\xFF\xFF", false, 0},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.name);
    ForEveryCut(c.bytes, [&](MessageCursor cursor) {
      std::size_t length = 0;
      ASSERT_EQ(cursor.ReadLength(&length), c.ok);
      if (!c.ok) return;
      EXPECT_EQ(length, c.length);
      EXPECT_EQ(cursor.position(), c.bytes.size());
    });
  }
}

std::string Groups(int depth) {
  std::string groups;
  for (int i = 0; i < depth; ++i) groups = Group(9, groups);
  return groups;
}

TEST(MessageCursor, Values) {
  struct {
    const char* name;
    std::string field;
    bool ok;
  } const cases[] = {
      {"number", VarintField(9, 300), true},
      {"number of ten bytes", Tag(9, tests::kVarint) + Varint(~0ULL), true},
      {"number of eleven bytes", Tag(9, tests::kVarint) + Varint(1, 11), false},
      {"number cut off", Tag(9, tests::kVarint) + "\x80", false},
      {"eight bytes", Tag(9, tests::kFixed64) + "12345678", true},
      {"seven bytes", Tag(9, tests::kFixed64) + "1234567", false},
      {"four bytes", Tag(9, tests::kFixed32) + "1234", true},
      {"three bytes", Tag(9, tests::kFixed32) + "123", false},
      {"bytes", BytesField(9, "abcdef"), true},
      {"no bytes", BytesField(9, ""), true},
      {"too few bytes", Tag(9, tests::kBytes) + Varint(7) + "abcdef", false},
      {"no length", Tag(9, tests::kBytes), false},
      {"group", Group(9, VarintField(1, 1) + BytesField(2, "a")), true},
      {"group in a group", Group(9, Group(9, Group(8, "")) + VarintField(1, 1)), true},
      {"group with another's end", Tag(9, tests::kStartGroup) + Tag(8, tests::kEndGroup), false},
      {"groups that overlap",
       Tag(9, tests::kStartGroup) + Tag(8, tests::kStartGroup) + Tag(9, tests::kEndGroup) + Tag(8, tests::kEndGroup),
       false},
      {"open group", Tag(9, tests::kStartGroup) + VarintField(1, 1), false},
      {"group with a broken field", Group(9, Tag(1, tests::kBytes) + Varint(100)), false},
      {"end of no group", Tag(9, tests::kEndGroup), false},
      {"wire type 6", Varint(9 << 3 | 6), false},
      {"wire type 7 in a group", Group(9, Varint(9 << 3 | 7)), false},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.name);
    // Behind it stands what must not be touched.
    const std::string message = c.ok ? c.field + "next" : c.field;
    ForEveryCut(message, [&](MessageCursor cursor) {
      std::uint32_t tag = 0;
      ASSERT_TRUE(cursor.ReadTag(&tag));
      ASSERT_EQ(cursor.SkipValue(tag), c.ok);
      if (c.ok) {
        EXPECT_EQ(cursor.position(), c.field.size());
      }
    });
  }
}

// protobuf reads groups 100 deep. A message of nothing but their first bytes must not cost memory.
TEST(MessageCursor, GroupsAsDeepAsProtobufReadsThem) {
  for (const auto& [depth, ok] :
       std::vector<std::pair<int, bool>>{{1, true}, {100, true}, {101, false}, {5000, false}}) {
    const MessageSlices slices(InPieces(Groups(depth), {}));
    MessageCursor cursor(&slices);
    std::uint32_t tag = 0;
    ASSERT_TRUE(cursor.ReadTag(&tag));
    EXPECT_EQ(cursor.SkipValue(tag), ok) << depth;
  }
}

TEST(MessageCursor, SkipsAcrossSlices) {
  const std::string message = "0123456789";
  for (std::size_t size = 0; size <= message.size() + 1; ++size) {
    ForEveryCut(message, [&](MessageCursor cursor) {
      ASSERT_EQ(cursor.Skip(size), size <= message.size());
      if (size <= message.size()) {
        EXPECT_EQ(cursor.position(), size);
      }
    });
  }
}

}  // namespace
}  // namespace normd::wire
