#include "proto/wire/message_slices.h"

#include <cstdint>
#include <cstring>

namespace normd::wire {
namespace {

// Of the protobuf encoding.
enum WireType : std::uint32_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kStartGroup = 3, kEndGroup = 4, kFixed32 = 5 };

constexpr std::size_t kMaxVarintBytes = 10;
// Of a tag and a length; protobuf's parsers read no more.
constexpr std::size_t kMaxShortVarintBytes = 5;
// protobuf's parsers go no deeper.
constexpr std::size_t kMaxDepth = 100;

}  // namespace

MessageSlices::MessageSlices(const grpc::ByteBuffer& message) {
  if (!message.Valid()) return;
  slices_.resize(1);
  if (!message.TrySingleSlice(slices_.data()).ok() && !message.Dump(&slices_).ok()) slices_.clear();
  starts_.reserve(slices_.size());
  for (const grpc::Slice& slice : slices_) {
    starts_.push_back(size_);
    size_ += slice.size();
  }
}

std::size_t MessageSlices::SliceAt(std::size_t position) const {
  const auto after = std::upper_bound(starts_.begin(), starts_.end(), position);
  return after == starts_.begin() ? 0 : static_cast<std::size_t>(after - starts_.begin()) - 1;
}

void MessageSlices::Copy(std::size_t begin, std::size_t size, char* out) const {
  ForEachPiece(begin, size, [&out](absl::Span<const char> piece) {
    std::memcpy(out, piece.data(), piece.size());
    out += piece.size();
  });
}

void MessageSlices::Append(std::size_t begin, std::size_t size, std::string* out) const {
  ForEachPiece(begin, size, [out](absl::Span<const char> piece) { out->append(piece.data(), piece.size()); });
}

MessageCursor::MessageCursor(const MessageSlices* slices) : slices_(slices) {
  if (slices_->slices_.empty()) return;
  const grpc::Slice& first = slices_->slices_.front();
  slice_begin_ = next_ = reinterpret_cast<const char*>(first.begin());
  slice_end_ = next_ + first.size();
}

bool MessageCursor::NextSlice() {
  if (index_ + 1 >= slices_->slices_.size()) return false;
  ++index_;
  const grpc::Slice& slice = slices_->slices_[index_];
  start_ = slices_->starts_[index_];
  slice_begin_ = next_ = reinterpret_cast<const char*>(slice.begin());
  slice_end_ = next_ + slice.size();
  return true;
}

bool MessageCursor::ReadTag(std::uint32_t* tag) {
  *tag = 0;
  for (std::size_t i = 0; i < kMaxShortVarintBytes; ++i) {
    unsigned char byte = 0;
    if (!ReadByte(&byte)) return false;
    *tag |= static_cast<std::uint32_t>(byte & 0x7f) << (7 * i);
    if (byte < 0x80) return (*tag >> 3) != 0;
  }
  return false;
}

bool MessageCursor::ReadLength(std::size_t* length) {
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < kMaxShortVarintBytes; ++i) {
    unsigned char byte = 0;
    if (!ReadByte(&byte)) return false;
    value |= static_cast<std::uint64_t>(byte & 0x7f) << (7 * i);
    if (byte >= 0x80) continue;
    *length = static_cast<std::size_t>(value);
    return value < (std::uint64_t{1} << 31);
  }
  return false;
}

bool MessageCursor::Skip(std::size_t size) {
  while (size > static_cast<std::size_t>(slice_end_ - next_)) {
    size -= static_cast<std::size_t>(slice_end_ - next_);
    next_ = slice_end_;
    if (!NextSlice()) return false;
  }
  // Not for size 0, where next_ may be null.
  if (size > 0) next_ += size;
  return true;
}

bool MessageCursor::SkipVarint() {
  for (std::size_t i = 0; i < kMaxVarintBytes; ++i) {
    unsigned char byte = 0;
    if (!ReadByte(&byte)) return false;
    if (byte < 0x80) return true;
  }
  return false;
}

bool MessageCursor::SkipPlainValue(std::uint32_t tag) {
  switch (tag & 7) {
    case kVarint:
      return SkipVarint();
    case kFixed64:
      return Skip(8);
    case kBytes: {
      std::size_t length = 0;
      return ReadLength(&length) && Skip(length);
    }
    case kFixed32:
      return Skip(4);
    default:
      return false;
  }
}

bool MessageCursor::SkipValue(std::uint32_t tag) {
  if ((tag & 7) != kStartGroup) return SkipPlainValue(tag);
  // The numbers of the groups that are open.
  std::uint32_t open[kMaxDepth] = {tag >> 3};
  std::size_t depth = 1;
  while (depth > 0) {
    std::uint32_t inner = 0;
    if (!ReadTag(&inner)) return false;
    switch (inner & 7) {
      case kStartGroup:
        if (depth == kMaxDepth) return false;
        open[depth++] = inner >> 3;
        break;
      case kEndGroup:
        if (open[--depth] != inner >> 3) return false;
        break;
      default:
        if (!SkipPlainValue(inner)) return false;
    }
  }
  return true;
}

}  // namespace normd::wire
