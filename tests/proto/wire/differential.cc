#include "tests/proto/wire/differential.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include <algorithm>
#include <memory>

#include "absl/strings/str_cat.h"
#include "inference/open_inference_service.pb.h"
#include "normd/v1/normalization_service.pb.h"
#include "proto/wire/message_slices.h"
#include "tests/proto/wire/encoding.h"

namespace normd::tests {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

std::string Deterministic(const Message& message) {
  std::string out;
  {
    google::protobuf::io::StringOutputStream stream(&out);
    google::protobuf::io::CodedOutputStream coded(&stream);
    coded.SetSerializationDeterministic(true);
    message.SerializePartialToCodedStream(&coded);
  }
  return out;
}

// Calls f(message, field, which payload) for the payload fields that `message` has a place for.
template <typename F>
void ForEachPayload(Message* message, absl::Span<const wire::PayloadField> schema, const F& f) {
  for (const wire::PayloadField& field : schema) {
    const FieldDescriptor* descriptor = message->GetDescriptor()->FindFieldByNumber(static_cast<int>(field.number));
    if (field.inside.empty()) {
      f(message, descriptor, field.payload);
    } else if (message->GetReflection()->HasField(*message, descriptor)) {
      ForEachPayload(message->GetReflection()->MutableMessage(message, descriptor), field.inside, f);
    }
  }
}

// Sets every field that there is, messages in it too, to depth `depth`.
void Fill(Message* message, int depth) {
  for (int i = 0; i < message->GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor* field = message->GetDescriptor()->field(i);
    const google::protobuf::Reflection* reflection = message->GetReflection();
    for (int copy = 0; copy < (field->is_repeated() ? 3 : 1); ++copy) {
      const bool repeated = field->is_repeated();
      switch (field->cpp_type()) {
        case FieldDescriptor::CPPTYPE_INT32:
          repeated ? reflection->AddInt32(message, field, 300 + copy) : reflection->SetInt32(message, field, 300 + i);
          break;
        case FieldDescriptor::CPPTYPE_INT64:
          repeated ? reflection->AddInt64(message, field, 3 + copy) : reflection->SetInt64(message, field, -7);
          break;
        case FieldDescriptor::CPPTYPE_DOUBLE:
          repeated ? reflection->AddDouble(message, field, 0.1 * copy) : reflection->SetDouble(message, field, 0.5);
          break;
        case FieldDescriptor::CPPTYPE_BOOL:
          repeated ? reflection->AddBool(message, field, copy > 0) : reflection->SetBool(message, field, true);
          break;
        case FieldDescriptor::CPPTYPE_ENUM:
          reflection->SetEnumValue(message, field, 1);
          break;
        case FieldDescriptor::CPPTYPE_STRING:
          repeated ? reflection->AddString(message, field, absl::StrCat(copy, "\xC3\xA9"))
                   : reflection->SetString(message, field, absl::StrCat(field->name(), "\xC3\xA9"));
          break;
        case FieldDescriptor::CPPTYPE_MESSAGE:
          if (depth == 0) break;
          Fill(repeated ? reflection->AddMessage(message, field) : reflection->MutableMessage(message, field),
               depth - 1);
          break;
        case FieldDescriptor::CPPTYPE_FLOAT:
          repeated ? reflection->AddFloat(message, field, 0.5F) : reflection->SetFloat(message, field, 0.5F);
          break;
        case FieldDescriptor::CPPTYPE_UINT32:
          repeated ? reflection->AddUInt32(message, field, 7) : reflection->SetUInt32(message, field, 7);
          break;
        case FieldDescriptor::CPPTYPE_UINT64:
          repeated ? reflection->AddUInt64(message, field, 7) : reflection->SetUInt64(message, field, 7);
          break;
      }
    }
  }
}

// The way to the first payload of a schema: field numbers from outside to inside.
std::vector<std::uint32_t> PathOf(absl::Span<const wire::PayloadField> schema, std::size_t member) {
  std::vector<std::uint32_t> path;
  for (const wire::PayloadField* field = &schema[std::min(member, schema.size() - 1)];; field = &field->inside[0]) {
    path.push_back(field->number);
    if (field->inside.empty()) return path;
  }
}

// Field path[i] with in it field path[i+1] with ... `content`, each after `before`.
std::string Nest(absl::Span<const std::uint32_t> path, absl::string_view content, absl::string_view before = "") {
  std::string out(content);
  for (auto it = path.rbegin(); it != path.rend(); ++it) out = absl::StrCat(before, BytesField(*it, out));
  return out;
}

}  // namespace

const std::vector<TensorMessageType>& TensorMessageTypes() {
  static const auto* const types = new std::vector<TensorMessageType>{
      {&v1::TrainStepRequest::default_instance(), wire::kTrainStepRequestPayloads},
      {&v1::InferRequest::default_instance(), wire::kInferRequestPayloads},
      {&v1::DenormalizeRequest::default_instance(), wire::kDenormalizeRequestPayloads},
      {&v1::BackwardRequest::default_instance(), wire::kBackwardRequestPayloads},
      {&v1::StepsRequest::default_instance(), wire::kStepsRequestPayloads},
      {&v1::TrainStepResponse::default_instance(), wire::kTensorResponsePayloads},
      {&v1::InferResponse::default_instance(), wire::kTensorResponsePayloads},
      {&v1::DenormalizeResponse::default_instance(), wire::kTensorResponsePayloads},
      {&v1::BackwardResponse::default_instance(), wire::kTensorResponsePayloads},
      {&v1::StepsResponse::default_instance(), wire::kStepsResponsePayloads},
      {&v1::InferStreamRequest::default_instance(), wire::kChunkPayloads},
      {&v1::InferStreamResponse::default_instance(), wire::kChunkPayloads},
      {&v1::TrainStepStreamRequest::default_instance(), wire::kChunkPayloads},
      {&v1::TrainStepStreamResponse::default_instance(), wire::kChunkPayloads},
      {&inference::ModelInferRequest::default_instance(), wire::kModelInferRequestPayloads},
  };
  return *types;
}

std::string Difference(const TensorMessageType& type, absl::string_view message, const grpc::ByteBuffer& slices) {
  const std::unique_ptr<Message> want(type.prototype->New());
  const bool want_ok = want->ParseFromArray(message.data(), static_cast<int>(message.size()));

  const wire::MessageSlices split_slices(slices);
  const std::unique_ptr<Message> got(type.prototype->New());
  wire::Payload payloads[wire::kMaxPayloads];
  const absl::Status status = wire::SplitMessage(split_slices, type.schema, got.get(), absl::MakeSpan(payloads));
  if (want_ok != status.ok()) {
    return absl::StrCat("protobuf ", want_ok ? "reads it" : "does not read it", ", SplitMessage: ", status.ToString());
  }
  if (!want_ok) return "";

  std::string difference;
  bool restored[wire::kMaxPayloads] = {};
  ForEachPayload(got.get(), type.schema, [&](Message* inside, const FieldDescriptor* field, std::size_t which) {
    const google::protobuf::Reflection* reflection = inside->GetReflection();
    if (field->is_repeated()) {
      restored[which] = true;
      if (payloads[which].begin == 0) return;
      std::string data;
      split_slices.Append(payloads[which].begin, payloads[which].size, &data);
      reflection->AddString(inside, field, data);
      for (int i = reflection->FieldSize(*inside, field) - 1; i > 0; --i) {
        reflection->SwapElements(inside, field, i, i - 1);
      }
      return;
    }
    std::string scratch;
    if (!reflection->GetStringReference(*inside, field, &scratch).empty()) {
      absl::StrAppend(&difference, field->full_name(), " is not empty; ");
    }
    restored[which] = true;
    if (payloads[which].size == 0) return;
    std::string data;
    split_slices.Append(payloads[which].begin, payloads[which].size, &data);
    reflection->SetString(inside, field, data);
  });
  for (std::size_t i = 0; i < wire::kMaxPayloads; ++i) {
    if (payloads[i].size > 0 && !restored[i]) absl::StrAppend(&difference, "payload ", i, " belongs to no field; ");
  }
  if (Deterministic(*got) != Deterministic(*want)) {
    absl::StrAppend(&difference, "protobuf read\n", want->Utf8DebugString(), "SplitMessage read\n",
                    got->Utf8DebugString());
  }
  return difference;
}

FuzzInput ReadFuzzInput(absl::string_view input) {
  const auto byte = [&input](std::size_t i) { return static_cast<unsigned char>(input[i]); };
  FuzzInput result;
  result.type = &TensorMessageTypes()[byte(0) % TensorMessageTypes().size()];
  result.message = input.substr(kFuzzHeaderBytes);
  // Pieces of up to 2^k bytes, some empty, with the other bits as the seed.
  std::uint32_t random = byte(1) << 8U | byte(2);
  std::vector<std::size_t> sizes;
  if (random != 0) {
    const std::uint32_t most = 1U << (random & 7U);
    for (std::size_t left = result.message.size(); left > 0;) {
      random = random * 1664525U + 1013904223U;
      sizes.push_back(std::min<std::size_t>(left, (random >> 8U) % (most + 1)));
      left -= sizes.back();
    }
  }
  result.slices = InPieces(result.message, sizes, byte(2) % 5 == 4 ? CopiedSlice : HeapSlice);
  return result;
}

std::string WriteFuzzInput(std::size_t type, std::uint16_t cut, absl::string_view message) {
  std::string input;
  input.push_back(static_cast<char>(type));
  input.push_back(static_cast<char>(cut >> 8U));
  input.push_back(static_cast<char>(cut & 0xFFU));
  input.append(message.data(), message.size());
  return input;
}

std::vector<Sample> Samples(const TensorMessageType& type) {
  std::vector<Sample> samples;
  const auto add = [&samples](absl::string_view name, std::string message) {
    samples.push_back({std::string(name), std::move(message)});
  };
  const std::unique_ptr<Message> full(type.prototype->New());
  Fill(full.get(), 4);
  const std::string all = full->SerializeAsString();
  const std::string unknown = absl::StrCat(Group(900, Group(901, BytesField(4, "no tensor's"))), VarintField(902, 1));

  add("empty", "");
  add("all fields", all);
  add("unknown field first", absl::StrCat(unknown, all));
  add("twice", absl::StrCat(all, all));
  for (std::size_t member = 0; member < type.schema.size(); ++member) {
    const std::vector<std::uint32_t> path = PathOf(type.schema, member);
    // Around the payload, and what holds it.
    const absl::Span<const std::uint32_t> around = absl::MakeConstSpan(path).subspan(0, path.size() - 1);
    const std::uint32_t number = path.back();
    const std::uint32_t outermost = path.front();
    const auto at = [member](absl::string_view name) { return absl::StrCat(name, " ", member); };
    add(at("data alone"), Nest(path, "data"));
    add(at("data empty"), Nest(path, ""));
    add(at("data twice"), Nest(around, BytesField(number, "first") + BytesField(number, "second one")));
    add(at("data twice, then empty"), Nest(around, BytesField(number, "first") + BytesField(number, "")));
    add(at("in two parts, data first"), Nest(path, "data") + Nest(around, VarintField(1, 2) + BytesField(2, "\1\2")));
    add(at("in two parts, data last"), Nest(around, VarintField(1, 2) + BytesField(2, "\1\2")) + Nest(path, "data"));
    add(at("in two parts, both with data"), Nest(path, "data") + all + Nest(path, "other data"));
    add(at("unknown fields between"), Nest(path, "data", unknown) + unknown);
    add(at("unpacked shape"), Nest(around, VarintField(2, 5) + BytesField(number, "data") + VarintField(2, 6)));
    add(at("payload as a number"), Nest(around, VarintField(number, 5) + BytesField(number, "data")));
    add(at("payload as a group"), Nest(around, Group(number, "") + BytesField(number, "data")));
    add(at("message as a number"), VarintField(outermost, 5) + Nest(path, "data"));
    add(at("message as a group"), Nest(path, "data") + Group(outermost, BytesField(number, "other")));
    add(at("message empty after data"), Nest(path, "data") + BytesField(outermost, ""));
    add(at("long tag and length"),
        absl::StrCat(Tag(outermost, kBytes, 5), Varint(4, 5), Tag(number, kBytes), Varint(2, 1), "ab"));
    add(at("tag of six bytes"), absl::StrCat(Tag(outermost, kBytes, 6), Varint(0)));
    add(at("length of six bytes"), absl::StrCat(Tag(outermost, kBytes), Varint(0, 6)));
    add(at("tag with bits above 32"), absl::StrCat(Varint((1ULL << 34U) | outermost << 3U | kBytes), Varint(0)));
    add(at("length beyond the message"), absl::StrCat(Tag(outermost, kBytes), Varint(5), "abcd"));
    add(at("length of 2 GiB"), absl::StrCat(Tag(outermost, kBytes), Varint(1ULL << 31U), "abcd"));
    add(at("length of 4 GiB"), absl::StrCat(Tag(outermost, kBytes), Varint(1ULL << 32U)));
    add(at("payload beyond its message"),
        Nest(around, absl::StrCat(Tag(number, kBytes), Varint(5), "data")) + VarintField(900, 1));
    add(at("unknown field beyond its message"),
        Nest(around, absl::StrCat(Tag(900, kBytes), Varint(2))) + VarintField(900, 1));
    add(at("unknown number cut off inside"), Nest(around, Tag(900, kVarint) + "\x80") + VarintField(900, 1));
    add(at("end of no group inside"), Nest(around, Tag(900, kEndGroup)));
    add(at("group open at the end of its message"), Nest(around, Tag(900, kStartGroup)) + Tag(900, kEndGroup));
    add(at("another after it"), Nest(path, "data") + Nest(PathOf(type.schema, member + 1), "another's"));
    add(at("another before it"), Nest(PathOf(type.schema, member + 1), "another's") + Nest(path, "data"));
    add(at("another between"),
        Nest(path, "data") + Nest(PathOf(type.schema, member + 1), "another's") + BytesField(outermost, ""));
  }
  add("number of ten bytes", absl::StrCat(Tag(900, kVarint), Varint(~0ULL)));
  add("number of eleven bytes", absl::StrCat(Tag(900, kVarint), Varint(1, 11)));
  add("tag zero", std::string(1, '\0'));
  add("field number zero", absl::StrCat(Varint(kBytes), Varint(0)));
  add("wire type 6", absl::StrCat(Varint(900U << 3U | 6U), Varint(0)));
  add("wire type 7", absl::StrCat(Varint(900U << 3U | 7U), Varint(0)));
  add("end of no group", Tag(900, kEndGroup));
  add("group that another's end closes", Tag(900, kStartGroup) + Tag(901, kEndGroup));
  add("group left open", Tag(900, kStartGroup) + VarintField(901, 1));
  add("text that is no UTF-8", BytesField(1, "\xC3("));
  for (const int depth : {99, 100, 101}) {
    std::string groups;
    for (int i = 0; i < depth; ++i) groups = Group(900, groups);
    add(absl::StrCat("groups ", depth, " deep"), groups);
  }
  return samples;
}

}  // namespace normd::tests
