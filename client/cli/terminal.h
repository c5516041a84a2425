#ifndef NORMD_CLIENT_CLI_TERMINAL_H_
#define NORMD_CLIENT_CLI_TERMINAL_H_

#include <termios.h>

#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace normd::cli {

// The whole terminal, while this lives: the alternate screen, without a cursor, and keys as they are pressed. The
// destructor puts everything back. One at a time in a process.
class Terminal {
 public:
  // Whether stdin and stdout are a terminal that can do so.
  static bool Available();

  Terminal();
  ~Terminal();
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;

  // Shows `text`, lines that end with "\n", in place of what was shown: as much of it as there is room for.
  void Show(absl::string_view text);
  // The key that is pressed before `timeout` is over; 0: none, or a signal came. -1: there is no more input.
  int WaitForKey(absl::Duration timeout);

 private:
  termios before_ = {};
};

// As much of `text` as fits `rows` lines of `columns` bytes.
std::string Cropped(absl::string_view text, int rows, int columns);

}  // namespace normd::cli

#endif  // NORMD_CLIENT_CLI_TERMINAL_H_
