#ifndef NORMD_CLIENT_CLI_PLOT_H_
#define NORMD_CLIENT_CLI_PLOT_H_

#include <string>
#include <vector>

namespace normd::cli {

// A histogram of the finite `values` as one line of up to `bins` bars, the height of each for how many fall in it: the
// least bar that is not empty is drawn too. Bars are U+2581 to U+2588, or with `ascii` the letters ".:-=+*#@". Empty
// when there is no finite value; one bar when all are equal.
std::string Histogram(const std::vector<double>& values, int bins, bool ascii);

}  // namespace normd::cli

#endif  // NORMD_CLIENT_CLI_PLOT_H_
