#include "server/base/cgroup.h"

#include <algorithm>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

namespace normd::base {
namespace {

void TakeSmaller(std::optional<double> candidate, std::optional<double>* smallest) {
  if (candidate && (!*smallest || *candidate < **smallest)) *smallest = candidate;
}

std::optional<double> Ratio(double quota, double period) {
  if (quota <= 0 || period <= 0) return std::nullopt;
  return quota / period;
}

// cpu.max: "<quota or max> <period>".
std::optional<double> ReadCoresV2(const std::string& directory) {
  std::ifstream file(directory + "/cpu.max");
  double quota = 0;
  double period = 0;
  // "max" is no number and ends here.
  if (!(file >> quota >> period)) return std::nullopt;
  return Ratio(quota, period);
}

// A quota of -1 means none.
std::optional<double> ReadCoresV1(const std::string& directory) {
  std::ifstream quota_file(directory + "/cpu.cfs_quota_us");
  std::ifstream period_file(directory + "/cpu.cfs_period_us");
  double quota = 0;
  double period = 0;
  if (!(quota_file >> quota) || !(period_file >> period)) return std::nullopt;
  return Ratio(quota, period);
}

// "max" is no number; v1 says a number near 2^63 for none.
std::optional<double> ReadNumber(const std::string& path) {
  std::ifstream file(path);
  double bytes = 0;
  if (!(file >> bytes) || bytes >= 0x1p62) return std::nullopt;
  return bytes;
}

std::optional<double> ReadMemoryV2(const std::string& directory) { return ReadNumber(directory + "/memory.max"); }
std::optional<double> ReadMemoryV1(const std::string& directory) {
  return ReadNumber(directory + "/memory.limit_in_bytes");
}

// The group's own directory and its parents, up to the hierarchy's mount. In a container the path may name a group of
// the host that is not visible here; the mount itself is then the container's group.
template <typename Read>
std::optional<double> SmallestUpwards(const std::string& mount, std::string path, Read read) {
  std::optional<double> smallest;
  while (!path.empty() && path != "/") {
    TakeSmaller(read(mount + path), &smallest);
    path.resize(path.find_last_of('/') == std::string::npos ? 0 : path.find_last_of('/'));
  }
  TakeSmaller(read(mount), &smallest);
  return smallest;
}

bool Contains(const std::string& controllers, const std::string& controller) {
  std::istringstream list(controllers);
  for (std::string name; std::getline(list, name, ',');) {
    if (name == controller) return true;
  }
  return false;
}

// The smallest limit of a controller on this process.
template <typename ReadV1, typename ReadV2>
std::optional<double> SmallestLimit(const std::string& root, const std::string& controller, ReadV1 read_v1,
                                    ReadV2 read_v2) {
  const std::string mounts = root + "/sys/fs/cgroup/";
  std::optional<double> smallest;
  std::ifstream file(root + "/proc/self/cgroup");
  // Lines "<hierarchy>:<controllers>:<path>"; v2 is hierarchy 0 and names no controllers.
  for (std::string line; std::getline(file, line);) {
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string path = line.substr(second + 1);
    if (line.compare(0, first, "0") == 0 && controllers.empty()) {
      TakeSmaller(SmallestUpwards(mounts, path, read_v2), &smallest);
      TakeSmaller(SmallestUpwards(mounts + "unified", path, read_v2), &smallest);
    } else if (Contains(controllers, controller)) {
      TakeSmaller(SmallestUpwards(mounts + controllers, path, read_v1), &smallest);
      TakeSmaller(SmallestUpwards(mounts + controller, path, read_v1), &smallest);
    }
  }
  return smallest;
}

}  // namespace

std::optional<double> CgroupCores(const std::string& root) {
  return SmallestLimit(root, "cpu", ReadCoresV1, ReadCoresV2);
}

std::optional<int64_t> CgroupMemoryBytes(const std::string& root) {
  const std::optional<double> bytes = SmallestLimit(root, "memory", ReadMemoryV1, ReadMemoryV2);
  if (!bytes) return std::nullopt;
  return static_cast<int64_t>(*bytes);
}

}  // namespace normd::base
