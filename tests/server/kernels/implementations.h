#ifndef NORMD_TESTS_SERVER_KERNELS_IMPLEMENTATIONS_H_
#define NORMD_TESTS_SERVER_KERNELS_IMPLEMENTATIONS_H_

#include <gtest/gtest.h>

#include <string>

#include "server/kernels/implementation.h"

namespace normd::kernels {

// Runs f once with each implementation of this machine, and leaves the one that ran before.
template <typename F>
void WithEachImplementation(const F& f) {
  const std::string before = ActiveImplementation().name;
  for (const Implementation* implementation : SupportedImplementations()) {
    SCOPED_TRACE(implementation->name);
    ASSERT_TRUE(UseImplementation(implementation->name));
    f();
  }
  ASSERT_TRUE(UseImplementation(before));
}

}  // namespace normd::kernels

#endif  // NORMD_TESTS_SERVER_KERNELS_IMPLEMENTATIONS_H_
