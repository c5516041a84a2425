#ifndef NORMD_SERVER_APP_CONFIG_CHECK_H_
#define NORMD_SERVER_APP_CONFIG_CHECK_H_

#include <string>
#include <vector>

#include "server/app/server.h"

namespace normd::app {

// What would keep a server with these options from starting on this machine, as this user: each in one line that names
// the setting. Changes nothing and takes nothing, so that it may run beside the server; whether an address is free,
// Redis answers or the state is sound shows on start.
std::vector<std::string> ConfigProblems(const ServerOptions& options);

}  // namespace normd::app

#endif  // NORMD_SERVER_APP_CONFIG_CHECK_H_
