#include "client/cli/npy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "tests/status_matchers.h"

namespace normd::cli {
namespace {

using ::testing::ElementsAre;
using tests::IsOk;
using tests::StatusIs;

// A file of the given version with this header, padded by nothing.
std::string File(int version, const std::string& header, const std::string& data) {
  std::string file("\x93NUMPY", 6);
  file += static_cast<char>(version);
  file += '\0';
  file += static_cast<char>(header.size() & 0xff);
  file += static_cast<char>(header.size() >> 8);
  if (version > 1) file += std::string(2, '\0');
  return file + header + data;
}

std::string Header(const std::string& descr, const std::string& order, const std::string& shape) {
  return "{'descr': " + descr + ", 'fortran_order': " + order + ", 'shape': " + shape + ", }\n";
}

TEST(NpyTest, ReadsWhatNumpyWrote) {
  // np.save of np.array([[1, 2, 3], [4, 5, 6]], '<f4'), NumPy 1.24.2, byte for byte.
  const std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }";
  std::string file("\x93NUMPY\x01\0v\0", 10);
  file += header + std::string(117 - header.size(), ' ') + "\n";
  ASSERT_EQ(file.size(), 128U);
  const float values[] = {1, 2, 3, 4, 5, 6};
  file.append(reinterpret_cast<const char*>(values), sizeof(values));
  const auto view = ParseNpy(file);
  ASSERT_THAT(view, IsOk());
  EXPECT_EQ(view->dtype, DType::kFloat32);
  EXPECT_THAT(view->shape, ElementsAre(2, 3));
  ASSERT_EQ(view->data.size(), sizeof(values));
  EXPECT_EQ(std::memcmp(view->data.data(), values, sizeof(values)), 0);

  // And our own header is the same 128 bytes.
  EXPECT_EQ(NpyHeader(DType::kFloat32, {2, 3}), file.substr(0, 128));
}

TEST(NpyTest, ReadsAndWritesHalfPrecision) {
  // np.save of np.array([[1, -2.5], [65504, 0.1]], '<f2'), NumPy 1.24.2, byte for byte.
  const std::string header = "{'descr': '<f2', 'fortran_order': False, 'shape': (2, 2), }";
  std::string file("\x93NUMPY\x01\0v\0", 10);
  file += header + std::string(117 - header.size(), ' ') + "\n" + std::string("\x00\x3c\x00\xc1\xff\x7b\x66\x2e", 8);
  const auto view = ParseNpy(file);
  ASSERT_THAT(view, IsOk());
  EXPECT_EQ(view->dtype, DType::kFloat16);
  EXPECT_THAT(view->shape, ElementsAre(2, 2));

  const std::string path = ::testing::TempDir() + "/normctl_half.npy";
  const Tensor tensor(DType::kFloat16, view->shape, Layout::kChannelsFirst,
                      std::string(view->data.data(), view->data.size()));
  ASSERT_THAT(WriteNpy(tensor, path), IsOk());
  EXPECT_EQ(ReadFile(path).value(), file);
  EXPECT_THAT(ReadNumbers(path).value(), ElementsAre(1, -2.5, 65504, 1638 * 0x1p-14));
}

TEST(NpyTest, Bfloat16HasNoFiles) {
  const std::string path = ::testing::TempDir() + "/normctl_bfloat16.npy";
  std::filesystem::remove(path);
  EXPECT_THAT(WriteNpy(Tensor(DType::kBFloat16, {2}, Layout::kChannelsFirst, std::string(4, '\0')), path),
              StatusIs(absl::StatusCode::kInvalidArgument, "is bfloat16, want float16, float32 or float64"));
  EXPECT_THAT(ReadFile(path), StatusIs(absl::StatusCode::kNotFound)) << "nothing was written";
}

TEST(NpyTest, ReadsEveryVersionAndShape) {
  struct Case {
    int version;
    const char* shape;
    std::vector<int64_t> want;
    std::size_t elements;
  };
  const Case cases[] = {{1, "(2,)", {2}, 2}, {2, "(2, 1)", {2, 1}, 2}, {3, "(1, 2, 1)", {1, 2, 1}, 2},
                        {1, "()", {}, 1},    {1, "(0, 3)", {0, 3}, 0}, {1, "( 2 ,1, )", {2, 1}, 2}};
  for (const Case& c : cases) {
    SCOPED_TRACE(c.shape);
    const std::string file = File(c.version, Header("'<f8'", "False", c.shape), std::string(c.elements * 8, '\0'));
    const auto view = ParseNpy(file);
    ASSERT_THAT(view, IsOk());
    EXPECT_EQ(view->dtype, DType::kFloat64);
    EXPECT_EQ(view->shape, c.want);
  }
}

TEST(NpyTest, ReadsAHeaderInAnyOrderAndQuotes) {
  const auto view =
      ParseNpy(File(1, "{\"shape\":(1,2),'fortran_order' : False,'descr':\"<f4\"}", std::string(8, '\0')));
  ASSERT_THAT(view, IsOk());
  EXPECT_THAT(view->shape, ElementsAre(1, 2));
}

TEST(NpyTest, RefusesTheRestWithClearWords) {
  const std::string eight(8, '\0');
  struct Case {
    const char* name;
    std::string file;
    const char* text;
  };
  const Case cases[] = {
      {"empty", "", "no .npy file"},
      {"text", "1,2,3\n4,5,6\n", "no .npy file"},
      {"npz", "PK\x03\x04..........", ".npz archive"},
      {"version 4", File(4, Header("'<f4'", "False", "(2,)"), eight), "version 4"},
      {"Fortran order", File(1, Header("'<f4'", "True", "(1, 2)"), eight), "Fortran order"},
      {"big-endian", File(1, Header("'>f8'", "False", "(1,)"), eight), "big-endian"},
      {"objects", File(1, Header("'|O'", "False", "(1,)"), eight), "Python objects"},
      {"integers", File(1, Header("'<i8'", "False", "(1,)"), eight), "'<i8'"},
      {"big-endian half precision", File(1, Header("'>f2'", "False", "(4,)"), eight), "save x.astype('<f2')"},
      {"bfloat16, as ml_dtypes saves it", File(1, Header("'<V2'", "False", "(4,)"), eight), "NumPy has no bfloat16"},
      {"long double", File(1, Header("'<f16'", "False", "(1,)"), eight), "'<f16', want '<f2', '<f4' or '<f8'"},
      {"structured", File(1, Header("[('a', '<f4')]", "False", "(2,)"), eight), "structured"},
      {"too few elements", File(1, Header("'<f8'", "False", "(2,)"), eight), "8 bytes of elements"},
      {"too many elements", File(1, Header("'<f4'", "False", "(1,)"), eight), "8 bytes of elements"},
      {"negative extent", File(1, Header("'<f4'", "False", "(-2,)"), eight), "shape"},
      {"shape is no tuple", File(1, Header("'<f4'", "False", "2"), eight), "shape"},
      {"shape is not closed", File(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (2,", eight), "shape"},
      {"overflow", File(1, Header("'<f4'", "False", "(9223372036854775807, 4)"), eight), "overflows"},
      {"no descr", File(1, "{'fortran_order': False, 'shape': (2,)}", eight), "lacks"},
      {"descr is no string", File(1, Header("3", "False", "(2,)"), eight), "descr"},
      {"cut off in the header", File(1, Header("'<f4'", "False", "(2,)"), "").substr(0, 30), "cut off"},
      {"cut off in the length", File(2, "", "").substr(0, 11), "cut off"},
      {"length beyond the file", std::string("\x93NUMPY\x02\0\xff\xff\xff\xff", 12), "cut off"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    EXPECT_THAT(ParseNpy(c.file), StatusIs(absl::StatusCode::kInvalidArgument, c.text));
  }
}

TEST(NpyTest, EveryPrefixOfAFileIsRefused) {
  const std::string file = File(2, Header("'<f4'", "False", "(1, 2)"), std::string(8, '\0'));
  ASSERT_THAT(ParseNpy(file), IsOk());
  for (std::size_t length = 0; length < file.size(); ++length) {
    EXPECT_THAT(ParseNpy(absl::string_view(file).substr(0, length)), StatusIs(absl::StatusCode::kInvalidArgument));
  }
}

TEST(NpyTest, HeadersAlignTheElementsAndReadBack) {
  for (const std::vector<int64_t>& shape :
       {std::vector<int64_t>{}, {7}, {1, 2}, {16, 24, 4, 4}, {1, 1, 1, 1, 1, 1, 1, 1}, {1000000000, 0}}) {
    const std::string header = NpyHeader(DType::kFloat64, shape);
    EXPECT_EQ(header.size() % 64, 0U);
    EXPECT_EQ(header.back(), '\n');
    std::size_t elements = 1;
    for (const int64_t extent : shape) elements *= static_cast<std::size_t>(extent);
    const std::string file = header + std::string(elements * 8, '\0');
    const auto view = ParseNpy(file);
    ASSERT_THAT(view, IsOk());
    EXPECT_EQ(view->shape, shape);
  }
}

TEST(NpyTest, NumbersComeFromTextOrFiles) {
  EXPECT_THAT(ReadNumbers("0.5,-1,1e-3").value(), ElementsAre(0.5, -1, 1e-3));
  EXPECT_THAT(ReadNumbers("2").value(), ElementsAre(2));
  EXPECT_THAT(ReadNumbers("/nonexistent/a.npy"), StatusIs(absl::StatusCode::kNotFound, "/nonexistent/a.npy"));
  const std::string path = ::testing::TempDir() + "/normctl_numbers.npy";
  const std::vector<float> values = {0.25F, 4};
  const Tensor tensor(DType::kFloat32, {2}, Layout::kChannelsFirst,
                      std::string(reinterpret_cast<const char*>(values.data()), 8));
  ASSERT_THAT(WriteNpy(tensor, path), IsOk());
  EXPECT_THAT(ReadNumbers(path).value(), ElementsAre(0.25, 4));
  EXPECT_THAT(WriteNpy(tensor, "/nonexistent/a.npy"), StatusIs(absl::StatusCode::kNotFound));
}

}  // namespace
}  // namespace normd::cli
