#ifndef NORMD_SERVER_STORE_SQLITE_ROW_CHANGES_H_
#define NORMD_SERVER_STORE_SQLITE_ROW_CHANGES_H_

#include <cstdint>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace normd::store {

// Key of a request: the row of its layer, and in the lower bits its sequence. SQLite appends to a table with such a key
// for less than to one whose key has two columns. A layer's sequence lasts for three years of 10,000 requests a second,
// and rows are used again.
inline constexpr int kSequenceBits = 40;
inline int64_t RequestKey(int64_t row, int64_t sequence) { return (row << kSequenceBits) + sequence; }
inline int64_t RowOfRequest(int64_t key) { return key >> kSequenceBits; }

// What a training step changes in the database, row by row. A plain value, which borrows its bytes.
struct RowChange {
  enum class Kind : int64_t {
    // Of the layer in row `id`: the record `bytes`.
    kStatistics = 1,
    kParameters,
    // Of the layer in row `id`: the contributor named `bytes` has come to `number`.
    kContributor,
    // The request with the key `id`: the record `bytes`.
    kRequest,
    // Of the layer in row `id`, or of none: the requests up to the key `number` go.
    kForgetRequests,
  };

  Kind kind = Kind::kStatistics;
  int64_t id = 0;
  int64_t number = 0;
  absl::string_view bytes;
};

// Such changes as bytes: each is a head of four words, kind, id, number and size, and its bytes, filled up to whole
// words. Not thread-safe.
class RowChanges {
 public:
  void Add(const RowChange& change);
  void Clear() { bytes_.clear(); }
  absl::string_view bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

// Calls `use` for each change in the bytes of a RowChanges; ends with the first status that is not OK. DATA_LOSS: they
// are no such bytes.
absl::Status ForEachRowChange(absl::string_view bytes, absl::FunctionRef<absl::Status(const RowChange&)> use);

}  // namespace normd::store

#endif  // NORMD_SERVER_STORE_SQLITE_ROW_CHANGES_H_
