#include "proto/wire/split_message.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "proto/wire/varint.h"

namespace normd::wire {
namespace {

class Splitter {
 public:
  Splitter(const MessageSlices& slices, absl::Span<Payload> payloads)
      : slices_(slices), cursor_(&slices), payloads_(payloads) {}

  // Reads fields up to position `end` and appends to `rest` all but the payloads. False: malformed.
  bool Split(std::size_t end, absl::Span<const PayloadField> schema, std::string* rest) {
    std::uint32_t oneof_member = 0;
    std::size_t kept = cursor_.position();
    while (cursor_.position() < end) {
      const std::size_t start = cursor_.position();
      std::uint32_t tag = 0;
      if (!cursor_.ReadTag(&tag)) return false;
      const PayloadField* field = Find(schema, tag);
      if (field == nullptr || (field->repeated && payloads_[field->payload].begin > 0)) {
        if (!cursor_.SkipValue(tag) || cursor_.position() > end) return false;
        continue;
      }
      slices_.Append(kept, start - kept, rest);
      std::size_t length = 0;
      if (!cursor_.ReadLength(&length) || cursor_.position() > end || length > end - cursor_.position()) return false;
      if (field->in_oneof && oneof_member != field->number) {
        Clear(schema);
        oneof_member = field->number;
      }
      if (field->inside.empty()) {
        payloads_[field->payload] = {cursor_.position(), length};
        if (!cursor_.Skip(length)) return false;
      } else {
        std::string inside;
        if (!Split(cursor_.position() + length, field->inside, &inside)) return false;
        AppendLengthDelimitedHeader(field->number, inside.size(), rest);
        rest->append(inside);
      }
      kept = cursor_.position();
    }
    slices_.Append(kept, end - kept, rest);
    return true;
  }

 private:
  static const PayloadField* Find(absl::Span<const PayloadField> schema, std::uint32_t tag) {
    if ((tag & 7) != kLengthDelimited) return nullptr;
    for (const PayloadField& field : schema) {
      if (field.number == tag >> 3) return &field;
    }
    return nullptr;
  }

  void Clear(absl::Span<const PayloadField> schema) {
    for (const PayloadField& field : schema) {
      if (field.inside.empty()) {
        payloads_[field.payload] = {};
      } else {
        Clear(field.inside);
      }
    }
  }

  const MessageSlices& slices_;
  MessageCursor cursor_;
  const absl::Span<Payload> payloads_;
};

// Field numbers of proto/normd/v1 and proto/inference.
constexpr PayloadField kFirst[] = {{.number = 4, .payload = 0}};
constexpr PayloadField kSecond[] = {{.number = 4, .payload = 1}};
constexpr PayloadField kRequestWithOneTensor[] = {{.number = 2, .inside = kFirst}};
constexpr PayloadField kBackwardRequest[] = {{.number = 2, .inside = kFirst}, {.number = 3, .inside = kSecond}};
constexpr PayloadField kStepsRequest[] = {{.number = 2, .inside = kRequestWithOneTensor, .in_oneof = true},
                                          {.number = 3, .inside = kRequestWithOneTensor, .in_oneof = true},
                                          {.number = 4, .inside = kRequestWithOneTensor, .in_oneof = true},
                                          {.number = 5, .inside = kBackwardRequest, .in_oneof = true}};
constexpr PayloadField kTensorResponse[] = {{.number = 1, .inside = kFirst}};
constexpr PayloadField kStepsResponse[] = {{.number = 3, .inside = kTensorResponse, .in_oneof = true},
                                           {.number = 4, .inside = kTensorResponse, .in_oneof = true},
                                           {.number = 5, .inside = kTensorResponse, .in_oneof = true},
                                           {.number = 6, .inside = kTensorResponse, .in_oneof = true}};
constexpr PayloadField kChunk[] = {{.number = 2, .payload = 0}};
constexpr PayloadField kModelInferRequest[] = {{.number = 7, .payload = 0, .repeated = true}};

}  // namespace

absl::Status SplitMessage(const MessageSlices& slices, absl::Span<const PayloadField> schema,
                          google::protobuf::MessageLite* message, absl::Span<Payload> payloads) {
  for (Payload& payload : payloads) payload = {};
  std::string rest;
  if (!Splitter(slices, payloads).Split(slices.size(), schema, &rest) || !message->ParseFromString(rest)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the ", slices.size(), " bytes received are no ", message->GetTypeName()));
  }
  return absl::OkStatus();
}

const absl::Span<const PayloadField> kTrainStepRequestPayloads = kRequestWithOneTensor;
const absl::Span<const PayloadField> kInferRequestPayloads = kRequestWithOneTensor;
const absl::Span<const PayloadField> kDenormalizeRequestPayloads = kRequestWithOneTensor;
const absl::Span<const PayloadField> kBackwardRequestPayloads = kBackwardRequest;
const absl::Span<const PayloadField> kStepsRequestPayloads = kStepsRequest;
const absl::Span<const PayloadField> kModelInferRequestPayloads = kModelInferRequest;
const absl::Span<const PayloadField> kTensorResponsePayloads = kTensorResponse;
const absl::Span<const PayloadField> kStepsResponsePayloads = kStepsResponse;
const absl::Span<const PayloadField> kChunkPayloads = kChunk;

}  // namespace normd::wire
