#include "client/cli/terminal.h"

#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace normd::cli {

bool Terminal::Available() {
  const char* const terminal = std::getenv("TERM");
  return isatty(STDIN_FILENO) == 1 && isatty(STDOUT_FILENO) == 1 && terminal != nullptr &&
         absl::string_view(terminal) != "dumb";
}

Terminal::Terminal() {
  tcgetattr(STDIN_FILENO, &before_);
  termios keys = before_;
  // Ctrl-C stays a signal.
  keys.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO);
  keys.c_cc[VMIN] = 1;
  keys.c_cc[VTIME] = 0;
  tcsetattr(STDIN_FILENO, TCSANOW, &keys);
  std::cout << "\033[?1049h\033[?25l" << std::flush;
}

Terminal::~Terminal() {
  std::cout << "\033[?25h\033[?1049l" << std::flush;
  tcsetattr(STDIN_FILENO, TCSANOW, &before_);
}

void Terminal::Show(absl::string_view text) {
  winsize size = {};
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_row == 0 || size.ws_col == 0) size = {24, 80, 0, 0};
  // Each line clears what was behind it, and the last one what was below: nothing flickers.
  const std::string shown = Cropped(text, size.ws_row - 1, size.ws_col);
  std::cout << "\033[H" << absl::StrReplaceAll(shown, {{"\n", "\033[K\r\n"}}) << "\033[J" << std::flush;
}

int Terminal::WaitForKey(absl::Duration timeout) {
  pollfd in = {.fd = STDIN_FILENO, .events = POLLIN, .revents = 0};
  const int64_t left = std::max<int64_t>(absl::ToInt64Milliseconds(timeout), 0);
  if (poll(&in, 1, static_cast<int>(std::min<int64_t>(left, std::numeric_limits<int>::max()))) <= 0) return 0;
  char key = 0;
  return read(STDIN_FILENO, &key, 1) == 1 ? static_cast<unsigned char>(key) : -1;
}

std::string Cropped(absl::string_view text, int rows, int columns) {
  std::string out;
  int row = 0;
  for (absl::string_view line : absl::StrSplit(absl::StripSuffix(text, "\n"), '\n')) {
    if (row++ == rows) break;
    absl::StrAppend(&out, line.substr(0, static_cast<std::size_t>(columns)), "\n");
  }
  return out;
}

}  // namespace normd::cli
