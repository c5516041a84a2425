#ifndef NORMD_SERVER_LAYER_CONTRIBUTORS_H_
#define NORMD_SERVER_LAYER_CONTRIBUTORS_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace normd::layer {

inline constexpr int kMaxContributorBytes = 128;

// The sequence number of the latest merge of each contributor to a layer. A plain value: copies share the names, so
// that a copy with one number changed costs 8 bytes for each of them.
class Contributors {
 public:
  static constexpr std::size_t kMaxSize = 10'000;

  // 0 for who has not contributed.
  int64_t LastSequence(absl::string_view name) const;

  // The same with `sequence` for `name`. RESOURCE_EXHAUSTED: it would be one contributor more than kMaxSize.
  absl::StatusOr<Contributors> With(absl::string_view name, int64_t sequence) const;

  // Of pairs in the order of their names, each once.
  static Contributors FromSorted(std::vector<std::pair<std::string, int64_t>> entries);

  // Of each contributor to one of the two the later number.
  static Contributors Union(const Contributors& a, const Contributors& b);

  std::size_t size() const { return sequences_.size(); }

  // Calls visit(name, sequence) in the order of the names.
  template <typename Visit>
  void ForEach(const Visit& visit) const {
    for (std::size_t i = 0; i < size(); ++i) visit(absl::string_view(*(*names_)[i]), sequences_[i]);
  }

  // The same for those alone whose sequence differs from that in `before`.
  template <typename Visit>
  void ForEachChange(const Contributors& before, const Visit& visit) const {
    const bool same_names = names_ == before.names_;
    for (std::size_t i = 0; i < size(); ++i) {
      const int64_t sequence = same_names ? before.sequences_[i] : before.LastSequence(*(*names_)[i]);
      if (sequence != sequences_[i]) visit(absl::string_view(*(*names_)[i]), sequences_[i]);
    }
  }

  friend bool operator==(const Contributors& a, const Contributors& b);

 private:
  using Names = std::vector<std::shared_ptr<const std::string>>;

  // Where the name stands or would stand.
  std::size_t Position(absl::string_view name) const;
  bool Has(std::size_t position, absl::string_view name) const;

  // In order. Neither the list nor a name is ever null.
  std::shared_ptr<const Names> names_ = std::make_shared<const Names>();
  // Of the names, one each.
  std::vector<int64_t> sequences_;
};

// A contributor has 1 to kMaxContributorBytes bytes and a sequence > 0; no contributor (empty) has sequence 0.
// INVALID_ARGUMENT otherwise.
absl::Status ValidateContribution(absl::string_view contributor, int64_t sequence);

}  // namespace normd::layer

#endif  // NORMD_SERVER_LAYER_CONTRIBUTORS_H_
