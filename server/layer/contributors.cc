#include "server/layer/contributors.h"

#include <algorithm>
#include <functional>
#include <map>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "server/base/quoted.h"

namespace normd::layer {

std::size_t Contributors::Position(absl::string_view name) const {
  const auto found = std::lower_bound(
      names_->begin(), names_->end(), name,
      [](const std::shared_ptr<const std::string>& a, absl::string_view b) { return absl::string_view(*a) < b; });
  return static_cast<std::size_t>(found - names_->begin());
}

bool Contributors::Has(std::size_t position, absl::string_view name) const {
  return position < size() && *(*names_)[position] == name;
}

int64_t Contributors::LastSequence(absl::string_view name) const {
  const std::size_t position = Position(name);
  return Has(position, name) ? sequences_[position] : 0;
}

absl::StatusOr<Contributors> Contributors::With(absl::string_view name, int64_t sequence) const {
  const std::size_t position = Position(name);
  Contributors next = *this;
  if (Has(position, name)) {
    next.sequences_[position] = sequence;
    return next;
  }
  if (size() >= kMaxSize) {
    return absl::ResourceExhaustedError(absl::StrCat("contributor '", absl::CHexEscape(name), "' is new, and ", size(),
                                                     " contributors are known already, which is the limit"));
  }
  const auto offset = static_cast<std::ptrdiff_t>(position);
  Names names = *names_;
  names.insert(names.begin() + offset, std::make_shared<const std::string>(name));
  next.names_ = std::make_shared<const Names>(std::move(names));
  next.sequences_.insert(next.sequences_.begin() + offset, sequence);
  return next;
}

Contributors Contributors::FromSorted(std::vector<std::pair<std::string, int64_t>> entries) {
  Contributors contributors;
  Names names;
  for (auto& [name, sequence] : entries) {
    names.push_back(std::make_shared<const std::string>(std::move(name)));
    contributors.sequences_.push_back(sequence);
  }
  contributors.names_ = std::make_shared<const Names>(std::move(names));
  return contributors;
}

Contributors Contributors::Union(const Contributors& a, const Contributors& b) {
  std::map<std::string, int64_t, std::less<>> latest;
  const auto add = [&](absl::string_view name, int64_t sequence) {
    int64_t& known = latest[std::string(name)];
    known = std::max(known, sequence);
  };
  a.ForEach(add);
  b.ForEach(add);
  return FromSorted({latest.begin(), latest.end()});
}

bool operator==(const Contributors& a, const Contributors& b) {
  const auto same_name = [](const auto& x, const auto& y) { return *x == *y; };
  return a.sequences_ == b.sequences_ &&
         std::equal(a.names_->begin(), a.names_->end(), b.names_->begin(), b.names_->end(), same_name);
}

absl::Status ValidateContribution(absl::string_view contributor, int64_t sequence) {
  if (contributor.size() > kMaxContributorBytes) {
    return absl::InvalidArgumentError(absl::StrCat("contributor ", base::Quoted(contributor), " has ",
                                                   contributor.size(), " bytes, want at most ", kMaxContributorBytes));
  }
  if (contributor.empty() && sequence != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("sequence is ", sequence, " without a contributor, want both or neither"));
  }
  if (!contributor.empty() && sequence <= 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("sequence of contributor '", absl::CHexEscape(contributor), "' is ", sequence, ", want above 0"));
  }
  return absl::OkStatus();
}

}  // namespace normd::layer
