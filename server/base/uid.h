#ifndef NORMD_SERVER_BASE_UID_H_
#define NORMD_SERVER_BASE_UID_H_

#include <string>

namespace normd::base {

// A fresh identifier of 128 random bits as 32 lower-case hex digits. Thread-safe.
std::string NewUid();

}  // namespace normd::base

#endif  // NORMD_SERVER_BASE_UID_H_
