#include "client/cpp/src/health_codec.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <google/protobuf/wire_format_lite.h>

#include <cstdint>
#include <string>
#include <vector>

namespace normd::internal {
namespace {

using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedInputStream;
using google::protobuf::io::CodedOutputStream;

constexpr int kServiceField = 1;
constexpr int kStatusField = 1;

}  // namespace

grpc::ByteBuffer EncodeHealthRequest(absl::string_view service) {
  std::string message;
  if (!service.empty()) {
    google::protobuf::io::StringOutputStream stream(&message);
    CodedOutputStream out(&stream);
    WireFormatLite::WriteString(kServiceField, {service.data(), service.size()}, &out);
  }
  const grpc::Slice slice(message);
  return grpc::ByteBuffer(&slice, 1);
}

std::optional<int> DecodeHealthResponse(const grpc::ByteBuffer& message) {
  std::vector<grpc::Slice> slices;
  if (!message.Dump(&slices).ok()) return std::nullopt;
  std::string bytes;
  for (const grpc::Slice& slice : slices) bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());

  CodedInputStream in(reinterpret_cast<const uint8_t*>(bytes.data()), static_cast<int>(bytes.size()));
  int status = 0;
  while (const uint32_t tag = in.ReadTag()) {
    if (tag == WireFormatLite::MakeTag(kStatusField, WireFormatLite::WIRETYPE_VARINT)) {
      uint64_t value = 0;
      if (!in.ReadVarint64(&value)) return std::nullopt;
      status = static_cast<int>(value);
    } else if (!WireFormatLite::SkipField(&in, tag)) {
      return std::nullopt;
    }
  }
  if (!in.ConsumedEntireMessage()) return std::nullopt;
  return status;
}

}  // namespace normd::internal
