#include "proto/wire/message_writer.h"

#include <cstring>
#include <utility>

#include "proto/wire/varint.h"

namespace normd::wire {
namespace {

// Up to here a copy costs less than another slice does on its way through gRPC.
constexpr std::size_t kMaxCopiedBytes = 16384;

}  // namespace

std::string* MessageWriter::Tail() {
  if (parts_.empty() || parts_.back().payload.size() > 0) parts_.emplace_back();
  return &parts_.back().bytes;
}

void MessageWriter::AddPayload(grpc::Slice payload) {
  Tail();
  size_ += payload.size();
  parts_.back().payload = std::move(payload);
}

void MessageWriter::AppendFields(const google::protobuf::MessageLite& message) {
  std::string* tail = Tail();
  const std::size_t before = tail->size();
  message.AppendToString(tail);
  size_ += tail->size() - before;
}

void MessageWriter::AppendMessage(std::uint32_t number, const google::protobuf::MessageLite& message) {
  std::string* tail = Tail();
  const std::size_t before = tail->size();
  AppendLengthDelimitedHeader(number, message.ByteSizeLong(), tail);
  message.AppendToString(tail);
  size_ += tail->size() - before;
}

void MessageWriter::AppendBytes(std::uint32_t number, grpc::Slice payload) {
  std::string* tail = Tail();
  const std::size_t before = tail->size();
  AppendLengthDelimitedHeader(number, payload.size(), tail);
  size_ += tail->size() - before;
  AddPayload(std::move(payload));
}

void MessageWriter::AppendPayload(std::uint32_t number, const google::protobuf::MessageLite& message,
                                  std::uint32_t payload_number, grpc::Slice payload) {
  std::string inside = message.SerializeAsString();
  AppendLengthDelimitedHeader(payload_number, payload.size(), &inside);
  std::string* tail = Tail();
  const std::size_t before = tail->size();
  AppendLengthDelimitedHeader(number, inside.size() + payload.size(), tail);
  tail->append(inside);
  size_ += tail->size() - before;
  AddPayload(std::move(payload));
}

void MessageWriter::WrapIn(std::uint32_t number, const google::protobuf::MessageLite& outer) {
  std::string front = outer.SerializeAsString();
  AppendLengthDelimitedHeader(number, size_, &front);
  size_ += front.size();
  if (parts_.empty()) parts_.emplace_back();
  parts_.front().bytes.insert(0, front);
}

grpc::ByteBuffer MessageWriter::Finish() {
  std::vector<grpc::Slice> slices;
  if (size_ <= kMaxCopiedBytes) {
    grpc::Slice whole(size_);
    char* out = reinterpret_cast<char*>(const_cast<std::uint8_t*>(whole.begin()));
    for (const Part& part : parts_) {
      part.bytes.copy(out, part.bytes.size());
      out += part.bytes.size();
      if (part.payload.size() == 0) continue;
      std::memcpy(out, part.payload.begin(), part.payload.size());
      out += part.payload.size();
    }
    slices.push_back(std::move(whole));
  } else {
    for (Part& part : parts_) {
      if (!part.bytes.empty()) slices.emplace_back(part.bytes);
      if (part.payload.size() > 0) slices.push_back(std::move(part.payload));
    }
  }
  parts_.clear();
  return grpc::ByteBuffer(slices.data(), slices.size());
}

}  // namespace normd::wire
