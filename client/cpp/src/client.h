#ifndef NORMD_CLIENT_CPP_SRC_CLIENT_H_
#define NORMD_CLIENT_CPP_SRC_CLIENT_H_

#include <memory>

#include "absl/strings/string_view.h"
#include "client/cpp/src/runtime.h"
#include "normd/client.h"
#include "normd/options.h"

namespace normd::internal {

// Client::Connect with a world of the caller's choice.
std::unique_ptr<Client> MakeClient(absl::string_view target, const ClientOptions& options,
                                   std::shared_ptr<Runtime> runtime);

}  // namespace normd::internal

#endif  // NORMD_CLIENT_CPP_SRC_CLIENT_H_
