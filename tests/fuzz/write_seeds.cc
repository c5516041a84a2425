// Writes what the fuzzer starts from, one file per input, into the folder that it is given.

#include <cstdint>
#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

#include "tests/proto/wire/differential.h"

int main(int argc, char** argv) {
  using namespace normd::tests;
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
    return 2;
  }
  int count = 0;
  const std::vector<TensorMessageType>& types = TensorMessageTypes();
  for (std::size_t type = 0; type < types.size(); ++type) {
    for (const Sample& sample : Samples(types[type])) {
      // The cuts differ from file to file; every fourth is one piece.
      const auto cut = static_cast<std::uint16_t>(count % 4 == 0 ? 0 : count * 37);
      std::ofstream file(std::string(argv[1]) + "/" + std::to_string(count++), std::ios::binary);
      file << WriteFuzzInput(type, cut, sample.message);
      if (!file.flush()) {
        std::fprintf(stderr, "cannot write into %s\n", argv[1]);
        return 1;
      }
    }
  }
  std::printf("%d seeds\n", count);
}
