#ifndef NORMD_PROTO_WIRE_VARINT_H_
#define NORMD_PROTO_WIRE_VARINT_H_

#include <cstddef>
#include <cstdint>
#include <string>

namespace normd::wire {

// A number as protobuf writes it: seven bits a byte, the lowest first.
inline void AppendVarint(std::uint64_t value, std::string* out) {
  while (value >= 0x80) {
    out->push_back(static_cast<char>(value | 0x80));
    value >>= 7;
  }
  out->push_back(static_cast<char>(value));
}

// The wire type of what has a length: bytes, strings and messages.
inline constexpr std::uint32_t kLengthDelimited = 2;

// What stands before the value of field `number` that is `length` bytes long.
inline void AppendLengthDelimitedHeader(std::uint32_t number, std::size_t length, std::string* out) {
  AppendVarint(number << 3 | kLengthDelimited, out);
  AppendVarint(length, out);
}

}  // namespace normd::wire

#endif  // NORMD_PROTO_WIRE_VARINT_H_
