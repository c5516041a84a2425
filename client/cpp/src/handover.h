#ifndef NORMD_CLIENT_CPP_SRC_HANDOVER_H_
#define NORMD_CLIENT_CPP_SRC_HANDOVER_H_

#if defined(__SANITIZE_THREAD__)
#include <atomic>
#endif

// For ThreadSanitizer alone. gRPC orders what happens before a call starts and what its callback does, but with locks
// of a library that is built without the sanitizer, which then takes every such pair for a race. A thread that gives
// something to gRPC says Give() last, the thread that gets it from there says Take() first. Nothing in other builds.
namespace normd::internal::handover {

#if defined(__SANITIZE_THREAD__)

inline std::atomic<int> given{0};
inline void Give() { given.fetch_add(1, std::memory_order_acq_rel); }
inline void Take() { given.load(std::memory_order_acquire); }

#else

inline void Give() {}
inline void Take() {}

#endif

}  // namespace normd::internal::handover

#endif  // NORMD_CLIENT_CPP_SRC_HANDOVER_H_
