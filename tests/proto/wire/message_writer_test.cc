#include "proto/wire/message_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "normd/v1/normalization_service.pb.h"
#include "tests/proto/wire/encoding.h"

namespace normd::wire {
namespace {

using tests::HeapSlice;
using tests::ToString;

std::vector<grpc::Slice> SlicesOf(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  EXPECT_TRUE(buffer.Dump(&slices).ok());
  return slices;
}

v1::Tensor Header() {
  v1::Tensor tensor;
  tensor.set_dtype(v1::DATA_TYPE_FLOAT64);
  tensor.add_shape(2);
  tensor.add_shape(300);
  return tensor;
}

v1::TrainStepResponse Statistics() {
  v1::TrainStepResponse response;
  response.add_batch_mean(0.5);
  response.add_batch_var(1.5);
  response.set_version(7);
  response.set_content_hash("hash");
  return response;
}

// Around every size at which something changes: lengths of one to four bytes, and the largest that is copied.
TEST(MessageWriter, ProtobufReadsWhatItWrites) {
  for (const std::size_t size : {0, 1, 100, 127, 128, 129, 16200, 16383, 16384, 16385, 70000, 3000000}) {
    SCOPED_TRACE(size);
    const std::string data(size, 'd');
    MessageWriter writer;
    writer.AppendFields(Statistics());
    writer.AppendPayload(1, Header(), 4, HeapSlice(data));
    const std::size_t written = writer.size();
    const std::string bytes = ToString(writer.Finish());
    EXPECT_EQ(bytes.size(), written);
    v1::TrainStepResponse read;
    ASSERT_TRUE(read.ParseFromString(bytes));
    v1::TrainStepResponse want = Statistics();
    *want.mutable_y() = Header();
    want.mutable_y()->set_data(data);
    EXPECT_EQ(read.SerializeAsString(), want.SerializeAsString());
  }
}

TEST(MessageWriter, WrapsWhatStandsInside) {
  for (const std::size_t size : {0, 10, 100000}) {
    SCOPED_TRACE(size);
    const std::string data(size, 'd');
    v1::StepsResponse outer;
    outer.set_id(1234567);
    MessageWriter writer;
    writer.AppendFields(Statistics());
    writer.AppendPayload(1, Header(), 4, HeapSlice(data));
    writer.WrapIn(3, outer);
    const std::size_t written = writer.size();
    const std::string bytes = ToString(writer.Finish());
    EXPECT_EQ(bytes.size(), written);
    v1::StepsResponse read;
    ASSERT_TRUE(read.ParseFromString(bytes));
    v1::StepsResponse want = outer;
    *want.mutable_train_step() = Statistics();
    *want.mutable_train_step()->mutable_y() = Header();
    want.mutable_train_step()->mutable_y()->set_data(data);
    EXPECT_EQ(read.SerializeAsString(), want.SerializeAsString());
  }
}

TEST(MessageWriter, WrapsNothing) {
  MessageWriter writer;
  writer.WrapIn(4, v1::StepsResponse());
  v1::StepsResponse read;
  ASSERT_TRUE(read.ParseFromString(ToString(writer.Finish())));
  EXPECT_TRUE(read.has_infer());
}

TEST(MessageWriter, TwoPayloadsAndFieldsBetween) {
  for (const std::size_t size : {5, 50000}) {
    const std::string x(size, 'x');
    const std::string dy(2 * size, 'y');
    v1::BackwardRequest request;
    request.set_layer("bn");
    v1::BackwardRequest id;
    id.set_request_id("id");
    MessageWriter writer;
    writer.AppendFields(request);
    writer.AppendPayload(2, Header(), 4, HeapSlice(x));
    writer.AppendFields(id);
    writer.AppendPayload(3, Header(), 4, HeapSlice(dy));
    v1::BackwardRequest read;
    ASSERT_TRUE(read.ParseFromString(ToString(writer.Finish())));
    EXPECT_EQ(read.layer(), "bn");
    EXPECT_EQ(read.request_id(), "id");
    EXPECT_EQ(read.x().data(), x);
    EXPECT_EQ(read.dy().data(), dy);
    EXPECT_EQ(read.dy().shape_size(), 2);
  }
}

TEST(MessageWriter, ChunksAreFieldsOfTheMessageItself) {
  for (const std::size_t size : {0, 5, 50000}) {
    const std::string data(size, 'c');
    MessageWriter writer;
    writer.AppendBytes(2, HeapSlice(data));
    v1::InferStreamResponse read;
    ASSERT_TRUE(read.ParseFromString(ToString(writer.Finish())));
    EXPECT_EQ(read.data(), data);
    EXPECT_FALSE(read.has_result());
  }
}

TEST(MessageWriter, ASmallMessageIsOneSlice) {
  MessageWriter writer;
  writer.AppendFields(Statistics());
  writer.AppendPayload(1, Header(), 4, HeapSlice(std::string(10000, 'd')));
  EXPECT_EQ(SlicesOf(writer.Finish()).size(), 1);
}

TEST(MessageWriter, ALargePayloadIsPassedOnAsItIs) {
  const grpc::Slice payload = HeapSlice(std::string(100000, 'd'));
  MessageWriter writer;
  writer.AppendFields(Statistics());
  writer.AppendPayload(1, Header(), 4, payload);
  writer.WrapIn(3, v1::StepsResponse());
  const std::vector<grpc::Slice> slices = SlicesOf(writer.Finish());
  ASSERT_EQ(slices.size(), 2);
  EXPECT_EQ(slices[1].begin(), payload.begin());
  EXPECT_EQ(slices[1].size(), payload.size());
}

TEST(MessageWriter, NothingIsAnEmptyMessage) {
  MessageWriter writer;
  EXPECT_EQ(writer.size(), 0);
  const grpc::ByteBuffer message = writer.Finish();
  EXPECT_TRUE(message.Valid());
  EXPECT_EQ(message.Length(), 0);
}

}  // namespace
}  // namespace normd::wire
