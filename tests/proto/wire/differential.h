#ifndef NORMD_TESTS_PROTO_WIRE_DIFFERENTIAL_H_
#define NORMD_TESTS_PROTO_WIRE_DIFFERENTIAL_H_

#include <google/protobuf/message.h>
#include <grpcpp/support/byte_buffer.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "proto/wire/split_message.h"

// wire::SplitMessage beside protobuf's own parser, for tests and for the fuzzer.
namespace normd::tests {

// A message type in which tensors travel.
struct TensorMessageType {
  const google::protobuf::Message* prototype;
  absl::Span<const wire::PayloadField> schema;
};
const std::vector<TensorMessageType>& TensorMessageTypes();

// Reads `message`, cut as in `slices`, both ways. Empty if both fail, or if SplitMessage's result with the payloads put
// back is protobuf's; otherwise what differs.
std::string Difference(const TensorMessageType& type, absl::string_view message, const grpc::ByteBuffer& slices);

// An input of the fuzzer: a byte that says which type, two that say how the message is cut, and the message.
inline constexpr std::size_t kFuzzHeaderBytes = 3;
struct FuzzInput {
  const TensorMessageType* type;
  absl::string_view message;
  grpc::ByteBuffer slices;
};
// REQUIRES: kFuzzHeaderBytes or more.
FuzzInput ReadFuzzInput(absl::string_view input);
// `type` is an index of TensorMessageTypes; `cut` 0 is one piece.
std::string WriteFuzzInput(std::size_t type, std::uint16_t cut, absl::string_view message);

// Messages of this type, good and bad, that parsers get wrong: what the fuzzer starts from.
struct Sample {
  std::string name;
  std::string message;
};
std::vector<Sample> Samples(const TensorMessageType& type);

}  // namespace normd::tests

#endif  // NORMD_TESTS_PROTO_WIRE_DIFFERENTIAL_H_
