#include "server/store/sqlite/step_tables.h"

#include <algorithm>
#include <tuple>

#include "absl/container/flat_hash_map.h"
#include "server/store/record_format.h"

namespace normd::store {
namespace {

using Kind = RowChange::Kind;

// What a change writes to: a later change of the same overwrites it. Requests have one each.
using Place = std::tuple<Kind, int64_t, absl::string_view>;
Place PlaceOf(const RowChange& change) {
  return {change.kind, change.id, change.kind == Kind::kContributor ? change.bytes : ""};
}

}  // namespace

absl::Status StepTables::Prepare(Database* database) {
  return database->PrepareAll({
      {&put_statistics_, "INSERT OR REPLACE INTO statistics (layer_id, bytes) VALUES (?, ?)"},
      {&put_parameters_, "INSERT OR REPLACE INTO parameters (layer_id, bytes) VALUES (?, ?)"},
      {&put_contributor_,
       "INSERT OR REPLACE INTO contributors (layer_id, name, sequence, checksum) VALUES (?, ?, ?, ?)"},
      {&put_request_, "INSERT INTO requests (key, bytes) VALUES (?, ?)"},
      {&delete_statistics_, "DELETE FROM statistics WHERE layer_id = ?"},
      {&delete_parameters_, "DELETE FROM parameters WHERE layer_id = ?"},
      {&delete_contributors_, "DELETE FROM contributors WHERE layer_id = ?"},
      {&delete_requests_, "DELETE FROM requests WHERE key BETWEEN ? AND ?"},
  });
}

absl::Status StepTables::Apply(absl::Span<const absl::string_view> changes) {
  // Where the last change of each place is: what stands before it need not be carried out. A forgetting takes only
  // requests that came before it, so that all of them may come first, and those that it takes need not come at all.
  absl::flat_hash_map<Place, int> last;
  absl::flat_hash_map<int64_t, int64_t> forgotten_through;
  int index = 0;
  for (const absl::string_view bytes : changes) {
    absl::Status status = ForEachRowChange(bytes, [&](const RowChange& change) {
      if (change.kind == Kind::kForgetRequests) {
        int64_t& through = forgotten_through[change.id];
        through = std::max(through, change.number);
      } else if (change.kind != Kind::kRequest) {
        last[PlaceOf(change)] = index;
      }
      ++index;
      return absl::OkStatus();
    });
    if (!status.ok()) return status;
  }
  for (const auto& [row, through] : forgotten_through) {
    absl::Status status = delete_requests_.Bind(0, RequestKey(row, 0)).Bind(1, through).Run();
    if (!status.ok()) return status;
  }
  index = 0;
  for (const absl::string_view bytes : changes) {
    absl::Status status = ForEachRowChange(bytes, [&](const RowChange& change) {
      const int here = index++;
      if (change.kind == Kind::kForgetRequests) return absl::OkStatus();
      if (change.kind == Kind::kRequest) {
        const auto forgotten = forgotten_through.find(RowOfRequest(change.id));
        if (forgotten != forgotten_through.end() && change.id <= forgotten->second) return absl::OkStatus();
      } else if (last[PlaceOf(change)] != here) {
        return absl::OkStatus();
      }
      return ApplyOne(change);
    });
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status StepTables::ApplyOne(const RowChange& change) {
  switch (change.kind) {
    case Kind::kStatistics:
      return put_statistics_.Bind(0, change.id).BindBlob(1, change.bytes).Run();
    case Kind::kParameters:
      return put_parameters_.Bind(0, change.id).BindBlob(1, change.bytes).Run();
    case Kind::kContributor:
      return put_contributor_.Bind(0, change.id)
          .BindBlob(1, change.bytes)
          .Bind(2, change.number)
          .Bind(3, ContributorChecksum(change.bytes, change.number))
          .Run();
    case Kind::kRequest:
      return put_request_.Bind(0, change.id).BindBlob(1, change.bytes).Run();
    case Kind::kForgetRequests:
      break;
  }
  return absl::OkStatus();
}

absl::Status StepTables::RemoveLayer(int64_t row) {
  for (Statement* statement : {&delete_statistics_, &delete_parameters_}) {
    if (absl::Status status = statement->Bind(0, row).Run(); !status.ok()) return status;
  }
  return RemoveContributors(row);
}

absl::Status StepTables::RemoveContributors(int64_t row) { return delete_contributors_.Bind(0, row).Run(); }

absl::Status StepTables::RemoveRequests(int64_t row) {
  return delete_requests_.Bind(0, RequestKey(row, 0)).Bind(1, RequestKey(row + 1, -1)).Run();
}

}  // namespace normd::store
