// Looks for messages that wire::SplitMessage reads differently than protobuf's own parser does. tests/fuzz/run.sh runs
// it.

#include <google/protobuf/stubs/logging.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "proto/wire/message_slices.h"
#include "tests/proto/wire/differential.h"
#include "tests/proto/wire/encoding.h"

// Of libFuzzer.
extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

namespace normd::tests {
namespace {

using Random = std::minstd_rand;

std::string MutateBytes(std::string bytes, std::size_t growth) {
  const std::size_t size = bytes.size();
  bytes.resize(size + growth);
  bytes.resize(LLVMFuzzerMutate(reinterpret_cast<uint8_t*>(bytes.data()), size, bytes.size()));
  return bytes;
}

// The fields of a message up to where it is malformed, and what is left.
struct Fields {
  std::vector<std::string> fields;
  std::string rest;
};

Fields FieldsOf(const std::string& message) {
  const wire::MessageSlices slices(InPieces(message, {}));
  wire::MessageCursor cursor(&slices);
  Fields result;
  std::size_t begin = 0;
  std::uint32_t tag = 0;
  while (begin < message.size() && cursor.ReadTag(&tag) && cursor.SkipValue(tag)) {
    result.fields.push_back(message.substr(begin, cursor.position() - begin));
    begin = cursor.position();
  }
  result.rest = message.substr(begin);
  return result;
}

// Changes something in the message, and keeps right the lengths of what it stands in. Plain mutations seldom get past
// the outermost length.
std::string MutateMessage(const std::string& message, std::size_t growth, Random& random) {
  Fields parts = FieldsOf(message);
  std::vector<std::string>& fields = parts.fields;
  if (fields.empty() || random() % 8 == 0) return MutateBytes(message, growth);
  const std::size_t i = random() % fields.size();
  const std::size_t j = random() % fields.size();
  switch (random() % 6) {
    case 0:
      std::swap(fields[i], fields[j]);
      break;
    case 1:
      fields.insert(fields.begin() + static_cast<std::ptrdiff_t>(j), fields[i]);
      break;
    case 2:
      fields.erase(fields.begin() + static_cast<std::ptrdiff_t>(i));
      break;
    default: {
      const wire::MessageSlices slices(InPieces(fields[i], {}));
      wire::MessageCursor cursor(&slices);
      std::uint32_t tag = 0;
      std::size_t length = 0;
      if (!cursor.ReadTag(&tag) || (tag & 7U) != kBytes || !cursor.ReadLength(&length)) {
        fields[i] = MutateBytes(fields[i], growth);
      } else {
        fields[i] = BytesField(tag >> 3U, MutateMessage(fields[i].substr(cursor.position()), growth, random));
      }
    }
  }
  std::string out;
  for (const std::string& field : fields) out += field;
  return out + parts.rest;
}

}  // namespace
}  // namespace normd::tests

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  // About text that is no UTF-8.
  google::protobuf::SetLogHandler(nullptr);
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned int seed) {
  using namespace normd::tests;
  Random random(seed);
  if (size < kFuzzHeaderBytes || random() % 4 == 0) return LLVMFuzzerMutate(data, size, max_size);
  const std::string input(reinterpret_cast<const char*>(data), size);
  const std::string mutated =
      input.substr(0, kFuzzHeaderBytes) +
      MutateMessage(input.substr(kFuzzHeaderBytes), std::min<size_t>(64, max_size - size), random);
  const size_t length = std::min(mutated.size(), max_size);
  std::copy_n(mutated.begin(), length, data);
  return length;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace normd::tests;
  if (size < kFuzzHeaderBytes) return 0;
  const FuzzInput input = ReadFuzzInput(absl::string_view(reinterpret_cast<const char*>(data), size));
  const std::string difference = Difference(*input.type, input.message, input.slices);
  if (difference.empty()) return 0;
  std::fprintf(stderr, "%s: %s\n", input.type->prototype->GetTypeName().c_str(), difference.c_str());
  std::abort();
}
