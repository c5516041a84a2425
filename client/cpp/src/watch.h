#ifndef NORMD_CLIENT_CPP_SRC_WATCH_H_
#define NORMD_CLIENT_CPP_SRC_WATCH_H_

#include <memory>

#include "client/cpp/src/connection.h"
#include "normd/watch.h"

namespace normd::internal {

// A watch over `connection`, which must outlive it.
std::unique_ptr<LayerWatch> OpenWatch(Connection* connection, const WatchOptions& options);

}  // namespace normd::internal

#endif  // NORMD_CLIENT_CPP_SRC_WATCH_H_
