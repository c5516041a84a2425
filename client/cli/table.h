#ifndef NORMD_CLIENT_CLI_TABLE_H_
#define NORMD_CLIENT_CLI_TABLE_H_

#include <ostream>
#include <string>
#include <vector>

namespace normd::cli {

// Rows of cells, printed in columns as wide as their widest cell.
class Table {
 public:
  // `right`: whether each column stands to the right (numbers).
  Table(std::vector<std::string> header, std::vector<bool> right);
  void AddRow(std::vector<std::string> cells);
  void Print(std::ostream* out) const;

 private:
  std::vector<std::vector<std::string>> rows_;
  std::vector<bool> right_;
};

// Six significant digits, for people; JSON has them all.
std::string Number(double value);

}  // namespace normd::cli

#endif  // NORMD_CLIENT_CLI_TABLE_H_
