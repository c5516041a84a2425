# How every target of ours is built: warnings, sanitizers, include root. No global flags.
# The presets release, bench, asan and tsan compile several sources of a target as one (CMAKE_UNITY_BUILD): the SDK and the
# registry take 0.4 of the time. Files whose names collide are left out where they are listed; that every file includes what it
# needs, dev and clang-tidy show.

set(NORMD_WARNINGS -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion -Wnon-virtual-dtor
                   -Woverloaded-virtual)
# GCC 12 sees overlapping copies in std::string's operator+ that cannot happen (GCC bug 105651).
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  list(APPEND NORMD_WARNINGS -Wno-restrict)
endif()

# normd_configure_target(<target> [FOREIGN_BYTES])
function(normd_configure_target target)
  normd_strict_target(${target})
  normd_sanitize_target(${target} ${ARGN})
endfunction()

# The language and its warnings.
function(normd_strict_target target)
  target_compile_features(${target} PUBLIC cxx_std_20)
  target_compile_options(${target} PRIVATE ${NORMD_WARNINGS})
  if(NORMD_WERROR)
    target_compile_options(${target} PRIVATE -Werror)
  endif()
endfunction()

function(normd_sanitize_target target)
  if(NORMD_SANITIZE)
    target_compile_options(${target} PRIVATE -fsanitize=${NORMD_SANITIZE} -fno-omit-frame-pointer)
    if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
      # Instrumented code confuses GCC's look at uninitialized values; its manual says so.
      target_compile_options(${target} PRIVATE -Wno-maybe-uninitialized)
      if(NORMD_SANITIZE MATCHES "undefined" AND NOT FOREIGN_BYTES IN_LIST ARGN)
        # These two look at every access, in almost half of the time that a file takes to compile. Null is seen by
        # AddressSanitizer, too, and alignment is in question only where foreign bytes are taken for numbers.
        target_compile_options(${target} PRIVATE -fno-sanitize=null,alignment)
      endif()
    endif()
    if(NORMD_SANITIZE MATCHES "fuzzer-no-link")
      # A fuzzer notices what ends the process.
      target_compile_options(${target} PRIVATE -fno-sanitize-recover=undefined)
    endif()
    target_link_options(${target} PUBLIC -fsanitize=${NORMD_SANITIZE})
    get_target_property(type ${target} TYPE)
    if(NORMD_SANITIZE STREQUAL "thread" AND type STREQUAL "EXECUTABLE")
      target_link_options(${target} PRIVATE -Wl,--version-script=${PROJECT_SOURCE_DIR}/tests/tsan.map)
    endif()
  endif()
endfunction()

# normd_library(<folder's name> [FOREIGN_BYTES] SOURCES ... [PUBLIC targets...] [PRIVATE targets...])
# Makes the static library normd_<name> with the alias normd::<name>. Its links are its arrows (tests/layering_test.cmake).
# FOREIGN_BYTES: it takes bytes from elsewhere for numbers.
function(normd_library name)
  cmake_parse_arguments(ARG "FOREIGN_BYTES" "" "SOURCES;PUBLIC;PRIVATE" ${ARGN})
  add_library(normd_${name} STATIC ${ARG_SOURCES})
  add_library(normd::${name} ALIAS normd_${name})
  target_include_directories(normd_${name} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>)
  target_link_libraries(normd_${name} PUBLIC ${ARG_PUBLIC} PRIVATE ${ARG_PRIVATE})
  if(ARG_FOREIGN_BYTES)
    normd_configure_target(normd_${name} FOREIGN_BYTES)
  else()
    normd_configure_target(normd_${name})
  endif()
endfunction()

# normd_test(<name> [SINGLE_THREADED] [RELEASED] [COMPUTES] [RUN_SERIAL] LABELS unit|integration|slow SOURCES ... LINK targets...)
# Makes a GoogleTest program and registers it with ctest as one test.
#   SINGLE_THREADED   it has nothing for ThreadSanitizer to see, and is left out under it
#   RELEASED          it looks at what sanitizers do not show: NORMD_TESTS_ONCE does not leave it out
#   COMPUTES          its own code takes long, and is optimized
#   RUN_SERIAL        it fills the machine by itself
function(normd_test name)
  cmake_parse_arguments(ARG "SINGLE_THREADED;RELEASED;COMPUTES;RUN_SERIAL" "TIMEOUT" "LABELS;SOURCES;LINK" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ${ARG_LINK} GTest::gmock GTest::gtest_main)
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR})
  normd_configure_target(${name})
  # Its own code is not what is tested: under sanitizers it compiles in a third of the time then.
  target_compile_options(${name} PRIVATE -fno-sanitize=undefined)
  if(NOT ARG_COMPUTES)
    target_compile_options(${name} PRIVATE -O0)
  endif()
  if((ARG_SINGLE_THREADED AND NORMD_SANITIZE STREQUAL "thread") OR (NORMD_TESTS_ONCE AND NOT ARG_RELEASED))
    set_target_properties(${name} PROPERTIES EXCLUDE_FROM_ALL TRUE)
    return()
  endif()
  add_test(NAME ${name} COMMAND ${name})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  set(tsan "TSAN_OPTIONS=suppressions=${PROJECT_SOURCE_DIR}/tests/tsan.supp")
  set(lsan "LSAN_OPTIONS=suppressions=${PROJECT_SOURCE_DIR}/tests/lsan.supp:print_suppressions=0")
  set(environment "${tsan};${lsan}")
  if(ARG_COMPUTES)
    # Tensors of megabytes come and go: with memory that stays with the process it takes a third of the time.
    list(APPEND environment MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=8589934592)
  endif()
  set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT} ENVIRONMENT "${environment}"
                                          RUN_SERIAL ${ARG_RUN_SERIAL})
endfunction()
