#include "client/cli/plot.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace normd::cli {

std::string Histogram(const std::vector<double>& values, int bins, bool ascii) {
  std::vector<double> finite;
  std::copy_if(values.begin(), values.end(), std::back_inserter(finite), [](double v) { return std::isfinite(v); });
  if (finite.empty() || bins < 1) return "";
  const auto [low, high] = std::minmax_element(finite.begin(), finite.end());
  if (*low == *high) bins = 1;
  std::vector<int> counts(static_cast<std::size_t>(bins), 0);
  for (const double value : finite) {
    // Halves, since the width itself may overflow.
    const double place = (value / 2 - *low / 2) / (*high / 2 - *low / 2);
    const int bin = bins == 1 ? 0 : std::clamp(static_cast<int>(place * bins), 0, bins - 1);
    ++counts[static_cast<std::size_t>(bin)];
  }
  static constexpr const char* kBars[] = {"\u2581", "\u2582", "\u2583", "\u2584",
                                          "\u2585", "\u2586", "\u2587", "\u2588"};
  static constexpr const char* kAscii[] = {".", ":", "-", "=", "+", "*", "#", "@"};
  const double most = *std::max_element(counts.begin(), counts.end());
  std::string out;
  for (const int count : counts) {
    if (count == 0) {
      out += " ";
      continue;
    }
    const int level = static_cast<int>(std::ceil(count / most * 8)) - 1;
    out += (ascii ? kAscii : kBars)[level];
  }
  return out;
}

}  // namespace normd::cli
