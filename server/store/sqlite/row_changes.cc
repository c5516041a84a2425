#include "server/store/sqlite/row_changes.h"

#include <algorithm>
#include <cstddef>
#include <cstring>

namespace normd::store {
namespace {

struct Head {
  int64_t kind = 0;
  int64_t id = 0;
  int64_t number = 0;
  int64_t size = 0;
};

constexpr std::size_t kWord = sizeof(int64_t);
std::size_t WholeWords(std::size_t size) { return (size + kWord - 1) / kWord * kWord; }

}  // namespace

void RowChanges::Add(const RowChange& change) {
  const Head head = {static_cast<int64_t>(change.kind), change.id, change.number,
                     static_cast<int64_t>(change.bytes.size())};
  bytes_.append(reinterpret_cast<const char*>(&head), sizeof(head));
  bytes_.append(change.bytes.data(), change.bytes.size());
  bytes_.resize(WholeWords(bytes_.size()));
}

absl::Status ForEachRowChange(absl::string_view bytes, absl::FunctionRef<absl::Status(const RowChange&)> use) {
  while (!bytes.empty()) {
    Head head;
    if (bytes.size() >= sizeof(head)) std::memcpy(&head, bytes.data(), sizeof(head));
    bytes.remove_prefix(std::min(bytes.size(), sizeof(head)));
    if (head.kind < static_cast<int64_t>(RowChange::Kind::kStatistics) ||
        head.kind > static_cast<int64_t>(RowChange::Kind::kForgetRequests) || head.size < 0 ||
        head.size > static_cast<int64_t>(bytes.size())) {
      return absl::DataLossError("a stored change of rows is damaged");
    }
    const auto size = static_cast<std::size_t>(head.size);
    const RowChange change = {static_cast<RowChange::Kind>(head.kind), head.id, head.number, bytes.substr(0, size)};
    if (absl::Status status = use(change); !status.ok()) return status;
    bytes.remove_prefix(std::min(bytes.size(), WholeWords(size)));
  }
  return absl::OkStatus();
}

}  // namespace normd::store
