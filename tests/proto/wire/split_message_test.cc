#include "proto/wire/split_message.h"

#include <gmock/gmock.h>
#include <google/protobuf/stubs/logging.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "normd/v1/normalization_service.pb.h"
#include "proto/wire/message_slices.h"
#include "tests/proto/wire/differential.h"
#include "tests/proto/wire/encoding.h"
#include "tests/status_matchers.h"

namespace normd::wire {
namespace {

using tests::BytesField;
using tests::Difference;
using tests::InPieces;
using tests::Samples;
using tests::StatusIs;
using tests::TensorMessageType;
using tests::TensorMessageTypes;
using tests::VarintField;

std::string TypeName(const TensorMessageType& type) { return type.prototype->GetDescriptor()->name(); }

// The same result as protobuf's parser, in one slice and in slices of one, three and seven bytes.
void ExpectSame(const TensorMessageType& type, const std::string& message) {
  for (const std::size_t piece : {std::size_t{0}, std::size_t{1}, std::size_t{3}, std::size_t{7}}) {
    const std::vector<std::size_t> sizes(piece == 0 ? 0 : message.size() / piece, piece);
    ASSERT_EQ(Difference(type, message, InPieces(message, sizes)), "")
        << TypeName(type) << " in slices of " << piece << ": " << absl::CEscape(message);
  }
}

// The fields that stand in a message, each with its tag. REQUIRES: it is well-formed.
std::vector<std::string> FieldsOf(const std::string& message) {
  const MessageSlices slices(InPieces(message, {}));
  MessageCursor cursor(&slices);
  std::vector<std::string> fields;
  while (cursor.position() < message.size()) {
    const std::size_t begin = cursor.position();
    std::uint32_t tag = 0;
    EXPECT_TRUE(cursor.ReadTag(&tag) && cursor.SkipValue(tag));
    fields.push_back(message.substr(begin, cursor.position() - begin));
  }
  return fields;
}

class SplitMessageTest : public ::testing::TestWithParam<TensorMessageType> {
 protected:
  // protobuf logs text that is no UTF-8.
  google::protobuf::LogSilencer silencer_;
};

INSTANTIATE_TEST_SUITE_P(All, SplitMessageTest, ::testing::ValuesIn(TensorMessageTypes()),
                         [](const auto& type) { return TypeName(type.param); });

TEST_P(SplitMessageTest, SamplesAreReadAsProtobufReadsThem) {
  int good = 0;
  int bad = 0;
  for (const tests::Sample& sample : Samples(GetParam())) {
    SCOPED_TRACE(sample.name);
    ExpectSame(GetParam(), sample.message);
    const std::unique_ptr<google::protobuf::Message> message(GetParam().prototype->New());
    ++(message->ParseFromString(sample.message) ? good : bad);
  }
  // They are of both kinds.
  EXPECT_GT(good, 15);
  EXPECT_GT(bad, 15);
}

TEST_P(SplitMessageTest, CutAnywhere) {
  for (const tests::Sample& sample : Samples(GetParam())) {
    SCOPED_TRACE(sample.name);
    for (std::size_t i = 0; i <= sample.message.size(); ++i) {
      ASSERT_EQ(Difference(GetParam(), sample.message, InPieces(sample.message, {i, 0})), "") << "cut at " << i;
    }
  }
}

TEST_P(SplitMessageTest, TruncatedAnywhere) {
  for (const tests::Sample& sample : Samples(GetParam())) {
    SCOPED_TRACE(sample.name);
    for (std::size_t size = 0; size < sample.message.size(); ++size) {
      const std::string message = sample.message.substr(0, size);
      ASSERT_EQ(Difference(GetParam(), message, InPieces(message, {size / 2})), "") << "after " << size;
    }
  }
}

TEST_P(SplitMessageTest, WithAnyByteChanged) {
  for (const tests::Sample& sample : Samples(GetParam())) {
    SCOPED_TRACE(sample.name);
    for (std::size_t i = 0; i < sample.message.size(); ++i) {
      for (const int change : {0x01, 0x02, 0x04, 0x07, 0x08, 0x10, 0x80, 0xFF}) {
        std::string message = sample.message;
        message[i] = static_cast<char>(message[i] ^ change);
        ASSERT_EQ(Difference(GetParam(), message, InPieces(message, {i})), "") << i << " xor " << change;
      }
    }
  }
}

TEST_P(SplitMessageTest, FieldsInAnyOrderAndNumber) {
  std::mt19937 random(1);
  std::vector<std::string> fields;
  for (const tests::Sample& sample : Samples(GetParam())) {
    const std::unique_ptr<google::protobuf::Message> message(GetParam().prototype->New());
    if (!message->ParseFromString(sample.message)) continue;
    for (std::string& field : FieldsOf(sample.message)) fields.push_back(std::move(field));
  }
  for (int i = 0; i < 1000; ++i) {
    std::shuffle(fields.begin(), fields.end(), random);
    std::string message;
    const std::size_t count = random() % 12;
    for (std::size_t j = 0; j < count; ++j) message += fields[j];
    ExpectSame(GetParam(), message);
  }
}

v1::Tensor SomeTensor() {
  v1::Tensor tensor;
  tensor.set_dtype(v1::DATA_TYPE_FLOAT32);
  tensor.add_shape(1);
  tensor.add_shape(2);
  tensor.set_data("eight by");
  return tensor;
}

TEST(SplitMessage, LeavesThePayloadsWhereTheyAre) {
  v1::BackwardRequest request;
  request.set_layer("bn");
  *request.mutable_x() = SomeTensor();
  *request.mutable_dy() = SomeTensor();
  request.mutable_dy()->set_data("not as x");
  request.set_request_id("id");
  const std::string bytes = request.SerializeAsString();
  const MessageSlices slices(InPieces(bytes, {7, 7}));
  v1::BackwardRequest read;
  Payload payloads[kMaxPayloads] = {{1, 1}, {1, 1}};
  NORMD_ASSERT_OK(SplitMessage(slices, kBackwardRequestPayloads, &read, absl::MakeSpan(payloads)));
  EXPECT_EQ(payloads[0].begin, bytes.find("eight by"));
  EXPECT_EQ(payloads[0].size, 8);
  EXPECT_EQ(payloads[1].begin, bytes.find("not as x"));
  EXPECT_EQ(payloads[1].size, 8);
  request.mutable_x()->clear_data();
  request.mutable_dy()->clear_data();
  EXPECT_EQ(read.SerializeAsString(), request.SerializeAsString());
}

TEST(SplitMessage, AnotherMemberOfTheOneofTakesThePayloadAway) {
  const std::string train = BytesField(2, BytesField(2, BytesField(4, "train's")));
  const std::string infer = BytesField(3, BytesField(1, "bn"));
  const std::string message = train + infer;
  const MessageSlices slices(InPieces(message, {}));
  v1::StepsRequest read;
  Payload payloads[kMaxPayloads];
  NORMD_ASSERT_OK(SplitMessage(slices, kStepsRequestPayloads, &read, absl::MakeSpan(payloads)));
  EXPECT_EQ(read.call_case(), v1::StepsRequest::kInfer);
  EXPECT_EQ(payloads[0].size, 0);
  EXPECT_EQ(payloads[1].size, 0);
}

TEST(SplitMessage, ErrorsNameTheTypeAndTheSize) {
  const MessageSlices slices(InPieces("\x12\x7F", {}));
  v1::InferRequest read;
  Payload payloads[kMaxPayloads];
  EXPECT_THAT(SplitMessage(slices, kInferRequestPayloads, &read, absl::MakeSpan(payloads)),
              StatusIs(absl::StatusCode::kInvalidArgument, "the 2 bytes received are no normd.v1.InferRequest"));
}

// What the fuzzer once found, kept in tests/fuzz/regressions.
TEST(SplitMessage, WhatTheFuzzerFound) {
  const google::protobuf::LogSilencer silencer;
  for (const auto& entry : std::filesystem::directory_iterator(NORMD_FUZZ_REGRESSIONS)) {
    std::ifstream file(entry.path(), std::ios::binary);
    const std::string input{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    if (input.size() < tests::kFuzzHeaderBytes) continue;
    const tests::FuzzInput read = tests::ReadFuzzInput(input);
    EXPECT_EQ(Difference(*read.type, read.message, read.slices), "") << entry.path();
  }
}

}  // namespace
}  // namespace normd::wire
