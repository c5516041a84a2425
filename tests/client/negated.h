#ifndef NORMD_TESTS_CLIENT_NEGATED_H_
#define NORMD_TESTS_CLIENT_NEGATED_H_

#include <cstddef>
#include <string>

namespace normd::tests {

// What servers of tests answer: little-endian float32 elements with the other sign, y = -x.
inline std::string Negated(std::string data) {
  for (std::size_t i = 3; i < data.size(); i += 4) data[i] = static_cast<char>(data[i] ^ 0x80);
  return data;
}

}  // namespace normd::tests

#endif  // NORMD_TESTS_CLIENT_NEGATED_H_
