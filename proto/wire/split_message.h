#ifndef NORMD_PROTO_WIRE_SPLIT_MESSAGE_H_
#define NORMD_PROTO_WIRE_SPLIT_MESSAGE_H_

#include <google/protobuf/message_lite.h>

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "proto/wire/message_slices.h"

// Reads messages without copying the tensors in them: the bytes of a tensor are left in gRPC's slices, and everything
// else is parsed by protobuf. So any encoding that protobuf reads is read, with the same result: fields in any order,
// repeated ones merged, unknown ones kept.
namespace normd::wire {

// Where payloads stand in a message type: a field that is one, or a message field that has some inside.
struct PayloadField {
  std::uint32_t number = 0;
  // Of a message. Empty: the field itself, of type bytes, is the payload.
  absl::Span<const PayloadField> inside = {};
  // Which payload it is, from 0.
  std::size_t payload = 0;
  // The field is a member of a oneof, as all its siblings here are: setting one clears the others' payloads.
  bool in_oneof = false;
  // The field is repeated: its first entry is the payload, and the others are parsed into the message.
  bool repeated = false;
};

// Of any message.
inline constexpr std::size_t kMaxPayloads = 2;

// A payload's place in the message; size 0 if it is absent or empty, and begin 0 too if it is absent.
struct Payload {
  std::size_t begin = 0;
  std::size_t size = 0;
};

// Parses the message into `message`, in which the payload fields stay empty, and says where they are. `payloads` has
// kMaxPayloads entries. INVALID_ARGUMENT, naming the type: protobuf could not parse it.
absl::Status SplitMessage(const MessageSlices& slices, absl::Span<const PayloadField> schema,
                          google::protobuf::MessageLite* message, absl::Span<Payload> payloads);

// The payloads of the messages. The first payload is x (Denormalize: y), the second dy.
extern const absl::Span<const PayloadField> kTrainStepRequestPayloads;
extern const absl::Span<const PayloadField> kInferRequestPayloads;
extern const absl::Span<const PayloadField> kDenormalizeRequestPayloads;
extern const absl::Span<const PayloadField> kBackwardRequestPayloads;
extern const absl::Span<const PayloadField> kStepsRequestPayloads;
// inference.ModelInferRequest: the first of raw_input_contents.
extern const absl::Span<const PayloadField> kModelInferRequestPayloads;
// Of the responses: y, x or dx.
extern const absl::Span<const PayloadField> kTensorResponsePayloads;
extern const absl::Span<const PayloadField> kStepsResponsePayloads;
// A chunk of a tensor, in either direction.
extern const absl::Span<const PayloadField> kChunkPayloads;

}  // namespace normd::wire

#endif  // NORMD_PROTO_WIRE_SPLIT_MESSAGE_H_
