#ifndef NORMD_PROTO_WIRE_MESSAGE_WRITER_H_
#define NORMD_PROTO_WIRE_MESSAGE_WRITER_H_

#include <google/protobuf/message_lite.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/slice.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace normd::wire {

// Writes a message around payloads that are not copied: the counterpart of SplitMessage. What stands inside is written
// first, as on the way from Tensor.data to StepsResponse:
//
//   writer.AppendFields(response_without_y);
//   writer.AppendPayload(/*number=*/1, tensor_without_data, /*payload_number=*/4, slice);
//   writer.WrapIn(/*number=*/4, steps_response_without_result);
//   grpc::ByteBuffer message = writer.Finish();
//
// Every field is written once, so parsers that do not merge repeated ones read it too. Not thread-safe.
class MessageWriter {
 public:
  // The fields that are set in `message`.
  void AppendFields(const google::protobuf::MessageLite& message);
  // Field `number`, of message type.
  void AppendMessage(std::uint32_t number, const google::protobuf::MessageLite& message);
  // Field `number`, of bytes type.
  void AppendBytes(std::uint32_t number, grpc::Slice payload);
  // Field `number`: `message` with `payload` as its bytes field `payload_number`, which is not set in `message`.
  void AppendPayload(std::uint32_t number, const google::protobuf::MessageLite& message, std::uint32_t payload_number,
                     grpc::Slice payload);
  // Makes all that was written the content of field `number`, of message type, behind the fields set in `outer`.
  void WrapIn(std::uint32_t number, const google::protobuf::MessageLite& outer);

  std::size_t size() const { return size_; }

  // The message. Small payloads are copied, so that it is one slice. Once.
  grpc::ByteBuffer Finish();

 private:
  // Bytes, then a payload, which may be absent.
  struct Part {
    std::string bytes;
    grpc::Slice payload;
  };

  // Where bytes go next.
  std::string* Tail();
  void AddPayload(grpc::Slice payload);

  std::vector<Part> parts_;
  std::size_t size_ = 0;
};

}  // namespace normd::wire

#endif  // NORMD_PROTO_WIRE_MESSAGE_WRITER_H_
