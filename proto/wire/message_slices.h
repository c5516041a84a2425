#ifndef NORMD_PROTO_WIRE_MESSAGE_SLICES_H_
#define NORMD_PROTO_WIRE_MESSAGE_SLICES_H_

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/slice.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/span.h"

namespace normd::wire {

// The bytes of a message as gRPC received them: in slices of a few KB up to 64 KB, at any alignment, an element of a
// tensor often astride two. Shares the slices, copies nothing. Not thread-safe.
class MessageSlices {
 public:
  MessageSlices() = default;
  explicit MessageSlices(const grpc::ByteBuffer& message);

  std::size_t size() const { return size_; }

  // Calls f(absl::Span<const char>) for the pieces of a range, in order. REQUIRES: the range lies in the message.
  template <typename F>
  void ForEachPiece(std::size_t begin, std::size_t size, F&& f) const {
    for (std::size_t i = SliceAt(begin); size > 0; ++i) {
      const std::size_t skip = begin - starts_[i];
      const std::size_t piece = std::min(size, slices_[i].size() - skip);
      if (piece > 0) f(absl::MakeConstSpan(reinterpret_cast<const char*>(slices_[i].begin()) + skip, piece));
      begin += piece;
      size -= piece;
    }
  }

  // Copies a range to `out`.
  void Copy(std::size_t begin, std::size_t size, char* out) const;
  void Append(std::size_t begin, std::size_t size, std::string* out) const;

 private:
  friend class MessageCursor;

  // The slice that holds byte `position`.
  std::size_t SliceAt(std::size_t position) const;

  std::vector<grpc::Slice> slices_;
  // Position of each slice's first byte in the message.
  std::vector<std::size_t> starts_;
  std::size_t size_ = 0;
};

// Reads a message of the protobuf wire format from its slices, field by field. Every Read and Skip says false when the
// bytes do not suffice or are not what it reads; nothing may be called afterwards. Borrows the slices.
class MessageCursor {
 public:
  explicit MessageCursor(const MessageSlices* slices);

  // Bytes before the next one.
  std::size_t position() const { return start_ + static_cast<std::size_t>(next_ - slice_begin_); }

  // A tag of at most five bytes, of which the number's 29 bits and the wire type's 3 count.
  [[nodiscard]] bool ReadTag(std::uint32_t* tag);
  // A length below 2 GiB in at most five bytes.
  [[nodiscard]] bool ReadLength(std::size_t* length);
  // Goes over what follows a tag: a value of any wire type, a group with all that is in it, 100 deep at most.
  [[nodiscard]] bool SkipValue(std::uint32_t tag);
  [[nodiscard]] bool Skip(std::size_t size);

 private:
  [[nodiscard]] bool ReadByte(unsigned char* byte) {
    while (next_ == slice_end_) {
      if (!NextSlice()) return false;
    }
    *byte = static_cast<unsigned char>(*next_++);
    return true;
  }
  bool NextSlice();
  bool SkipVarint();
  bool SkipPlainValue(std::uint32_t tag);

  const MessageSlices* slices_;
  std::size_t index_ = 0;
  // Position of the present slice, and its bytes.
  std::size_t start_ = 0;
  const char* slice_begin_ = nullptr;
  const char* next_ = nullptr;
  const char* slice_end_ = nullptr;
};

}  // namespace normd::wire

#endif  // NORMD_PROTO_WIRE_MESSAGE_SLICES_H_
