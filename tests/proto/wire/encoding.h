#ifndef NORMD_TESTS_PROTO_WIRE_ENCODING_H_
#define NORMD_TESTS_PROTO_WIRE_ENCODING_H_

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/slice.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "proto/wire/varint.h"

// The protobuf encoding by hand, for messages that no serializer writes.
namespace normd::tests {

enum WireType : std::uint32_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kStartGroup = 3, kEndGroup = 4, kFixed32 = 5 };

// In exactly `size` bytes, or as many as it takes.
inline std::string Varint(std::uint64_t value, std::size_t size = 0) {
  std::string out;
  wire::AppendVarint(value, &out);
  while (out.size() < size) {
    out.back() = static_cast<char>(out.back() | 0x80);
    out.push_back('\0');
  }
  return out;
}

inline std::string Tag(std::uint32_t number, WireType type, std::size_t size = 0) {
  return Varint(number << 3 | type, size);
}

inline std::string BytesField(std::uint32_t number, absl::string_view content) {
  return absl::StrCat(Tag(number, kBytes), Varint(content.size()), content);
}

inline std::string VarintField(std::uint32_t number, std::uint64_t value) {
  return absl::StrCat(Tag(number, kVarint), Varint(value));
}

inline std::string Group(std::uint32_t number, absl::string_view content) {
  return absl::StrCat(Tag(number, kStartGroup), content, Tag(number, kEndGroup));
}

// A slice of exactly these bytes, so that a sanitizer sees who reads beyond them; gRPC does not inline it.
inline grpc::Slice HeapSlice(absl::string_view bytes) {
  char* const copy = new char[bytes.size()];
  if (!bytes.empty()) std::memcpy(copy, bytes.data(), bytes.size());
  return grpc::Slice(
      copy, bytes.size(), [](void* data) { delete[] static_cast<char*>(data); }, copy);
}

// A short one is inlined: its bytes stand in the slice itself.
inline grpc::Slice CopiedSlice(absl::string_view bytes) { return grpc::Slice(bytes.data(), bytes.size()); }

// The message in pieces of these sizes; what they leave is one more.
inline grpc::ByteBuffer InPieces(absl::string_view message, const std::vector<std::size_t>& sizes,
                                 grpc::Slice (*make)(absl::string_view) = HeapSlice) {
  std::vector<grpc::Slice> slices;
  for (std::size_t size : sizes) {
    size = std::min(size, message.size());
    slices.push_back(make(message.substr(0, size)));
    message.remove_prefix(size);
  }
  if (!message.empty() || slices.empty()) slices.push_back(make(message));
  return grpc::ByteBuffer(slices.data(), slices.size());
}

inline std::string ToString(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  if (!buffer.Dump(&slices).ok()) return "";
  std::string out;
  for (const grpc::Slice& slice : slices) out.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  return out;
}

}  // namespace normd::tests

#endif  // NORMD_TESTS_PROTO_WIRE_ENCODING_H_
