#include "client/cli/npy.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace normd::cli {
namespace {

static_assert(std::endian::native == std::endian::little, "the elements are copied as they are");

constexpr absl::string_view kMagic("\x93NUMPY", 6);

uint32_t LittleEndian(absl::string_view bytes) {
  uint32_t value = 0;
  for (std::size_t i = bytes.size(); i-- > 0;) value = value << 8 | static_cast<unsigned char>(bytes[i]);
  return value;
}

// What stands after `'key':` in the header, a Python dict, up to the end of the header.
std::optional<absl::string_view> ValueOf(absl::string_view header, absl::string_view key) {
  for (const char quote : {'\'', '"'}) {
    const std::string quoted = absl::StrCat(std::string(1, quote), key, std::string(1, quote));
    const std::size_t at = header.find(quoted);
    if (at == absl::string_view::npos) continue;
    absl::string_view rest = absl::StripLeadingAsciiWhitespace(header.substr(at + quoted.size()));
    if (!absl::ConsumePrefix(&rest, ":")) continue;
    return absl::StripLeadingAsciiWhitespace(rest);
  }
  return std::nullopt;
}

struct Descr {
  absl::string_view descr;
  DType dtype;
};
constexpr Descr kDescrs[] = {{"<f2", DType::kFloat16}, {"<f4", DType::kFloat32}, {"<f8", DType::kFloat64}};

absl::StatusOr<DType> ParseDtype(absl::string_view value) {
  if (absl::StartsWith(value, "[")) {
    return absl::InvalidArgumentError(
        "it holds a structured array; save one plain array of float16, float32 or float64");
  }
  const char quote = value.empty() ? '\0' : value.front();
  const std::size_t end = value.find(quote, 1);
  if ((quote != '\'' && quote != '"') || end == absl::string_view::npos) {
    return absl::InvalidArgumentError("its header has no descr that can be read");
  }
  const absl::string_view descr = value.substr(1, end - 1);
  for (const Descr& known : kDescrs) {
    if (descr == known.descr) return known.dtype;
    if (descr == absl::StrCat(">", known.descr.substr(1))) {
      return absl::InvalidArgumentError(
          absl::StrCat("it is big-endian (", descr, "); save x.astype('", known.descr, "')"));
    }
  }
  if (absl::StrContains(descr, "O")) {
    return absl::InvalidArgumentError("it holds Python objects, which are never loaded; save x.astype('float32')");
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "its dtype is '", descr, "', want '<f2', '<f4' or '<f8' (NumPy has no bfloat16); save x.astype('float32')"));
}

absl::StatusOr<std::vector<int64_t>> ParseShape(absl::string_view value) {
  const auto bad = [] { return absl::InvalidArgumentError("its header has no shape that can be read"); };
  const std::size_t end = value.find(')');
  if (!absl::ConsumePrefix(&value, "(") || end == absl::string_view::npos) return bad();
  std::vector<int64_t> shape;
  // "()" , "(3,)" and "(3, 4)".
  for (absl::string_view part : absl::StrSplit(value.substr(0, end - 1), ',')) {
    part = absl::StripAsciiWhitespace(part);
    if (part.empty()) continue;
    if (!absl::SimpleAtoi(part, &shape.emplace_back()) || shape.back() < 0) return bad();
  }
  return shape;
}

using File = std::unique_ptr<FILE, int (*)(FILE*)>;

absl::Status ErrnoStatus(absl::string_view what, const std::string& path) {
  return absl::ErrnoToStatus(errno, absl::StrCat(what, " ", path == "-" ? "stdin or stdout" : path));
}

}  // namespace

absl::StatusOr<TensorView> ParseNpy(absl::string_view file) {
  if (!absl::StartsWith(file, kMagic) || file.size() < 10) {
    if (absl::StartsWith(file, "PK"))
      return absl::InvalidArgumentError("it is an .npz archive; save one array with np.save");
    return absl::InvalidArgumentError("it is no .npy file; write one with np.save");
  }
  const auto version = static_cast<unsigned char>(file[6]);
  if (version < 1 || version > 3) {
    return absl::InvalidArgumentError(
        absl::StrCat("its .npy format is version ", static_cast<int>(version), ", want 1, 2 or 3"));
  }
  const std::size_t length_bytes = version == 1 ? 2 : 4;
  const std::size_t start = 8 + length_bytes;
  if (file.size() < start || file.size() - start < LittleEndian(file.substr(8, length_bytes))) {
    return absl::InvalidArgumentError("it is cut off within its header");
  }
  const absl::string_view header = file.substr(start, LittleEndian(file.substr(8, length_bytes)));
  const auto descr = ValueOf(header, "descr");
  const auto fortran_order = ValueOf(header, "fortran_order");
  const auto shape_text = ValueOf(header, "shape");
  if (!descr || !fortran_order || !shape_text) {
    return absl::InvalidArgumentError("its header lacks descr, fortran_order or shape");
  }
  const absl::StatusOr<DType> dtype = ParseDtype(*descr);
  if (!dtype.ok()) return dtype.status();
  if (!absl::StartsWith(*fortran_order, "False")) {
    return absl::InvalidArgumentError("it is in Fortran order; save np.ascontiguousarray(x)");
  }
  absl::StatusOr<std::vector<int64_t>> shape = ParseShape(*shape_text);
  if (!shape.ok()) return shape.status();

  std::size_t wanted = ElementBytes(*dtype);
  for (const int64_t extent : *shape) {
    if (__builtin_mul_overflow(wanted, static_cast<std::size_t>(extent), &wanted)) {
      return absl::InvalidArgumentError("its shape overflows");
    }
  }
  const absl::string_view data = file.substr(start + header.size());
  if (data.size() != wanted) {
    return absl::InvalidArgumentError(absl::StrCat("it has ", data.size(), " bytes of elements, its shape (",
                                                   absl::StrJoin(*shape, ", "), ") wants ", wanted));
  }
  TensorView view;
  view.dtype = *dtype;
  view.shape = *std::move(shape);
  view.data = absl::MakeConstSpan(data.data(), data.size());
  return view;
}

std::string NpyHeader(DType dtype, const std::vector<int64_t>& shape) {
  const auto* const known =
      std::find_if(std::begin(kDescrs), std::end(kDescrs), [&](const Descr& descr) { return descr.dtype == dtype; });
  assert(known != std::end(kDescrs));
  std::string dict = absl::StrCat("{'descr': '", known->descr, "', 'fortran_order': False, 'shape': (",
                                  absl::StrJoin(shape, ", "), shape.size() == 1 ? ",), }" : "), }");
  // Padded so that the elements start at a multiple of 64. Eight extents never need more than version 1 can say.
  constexpr std::size_t kFixed = 10;
  dict.append(63 - (kFixed + dict.size()) % 64, ' ');
  dict += '\n';
  std::string header(kMagic);
  header += '\x01';
  header += '\0';
  header += static_cast<char>(dict.size() & 0xff);
  header += static_cast<char>(dict.size() >> 8);
  return header + dict;
}

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  const File owned(path == "-" ? nullptr : std::fopen(path.c_str(), "rb"), std::fclose);
  FILE* const file = path == "-" ? stdin : owned.get();
  if (file == nullptr) return ErrnoStatus("cannot open", path);
  std::string bytes;
  std::string chunk(std::size_t{1} << 20, '\0');
  while (const std::size_t got = std::fread(chunk.data(), 1, chunk.size(), file)) bytes.append(chunk, 0, got);
  if (std::ferror(file) != 0) return ErrnoStatus("cannot read", path);
  return bytes;
}

absl::Status WriteNpy(const Tensor& tensor, const std::string& path) {
  if (tensor.dtype() == DType::kBFloat16) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot write ", path, ": the tensor is bfloat16, want float16, float32 or float64"));
  }
  File owned(path == "-" ? nullptr : std::fopen(path.c_str(), "wb"), std::fclose);
  FILE* const file = path == "-" ? stdout : owned.get();
  if (file == nullptr) return ErrnoStatus("cannot open", path);
  const std::string header = NpyHeader(tensor.dtype(), tensor.shape());
  const absl::Span<const char> data = tensor.bytes();
  const bool written = std::fwrite(header.data(), 1, header.size(), file) == header.size() &&
                       std::fwrite(data.data(), 1, data.size(), file) == data.size() && std::fflush(file) == 0;
  if (!written) return ErrnoStatus("cannot write", path);
  // A full disk may show only now.
  if (owned != nullptr && std::fclose(owned.release()) != 0) return ErrnoStatus("cannot write", path);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<double>> ReadNumbers(const std::string& text) {
  std::vector<double> numbers;
  bool is_list = true;
  for (const absl::string_view part : absl::StrSplit(text, ',')) {
    is_list = is_list && absl::SimpleAtod(part, &numbers.emplace_back());
  }
  if (is_list) return numbers;
  const absl::StatusOr<std::string> bytes = ReadFile(text);
  if (!bytes.ok()) return bytes.status();
  const absl::StatusOr<TensorView> array = ParseNpy(*bytes);
  if (!array.ok()) return absl::Status(array.status().code(), absl::StrCat(text, ": ", array.status().message()));
  const Tensor tensor(array->dtype, array->shape, Layout::kChannelsFirst,
                      std::string(array->data.data(), array->data.size()));
  return tensor.ToDoubles();
}

}  // namespace normd::cli
