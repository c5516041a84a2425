cmake_minimum_required(VERSION 3.25)

# The test that CMakeLists.txt beside this registers.
set(prefix ${WORK_DIR}/prefix)
file(REMOVE_RECURSE ${WORK_DIR})
file(MAKE_DIRECTORY ${WORK_DIR})

# run(<command>...): fails the test unless it succeeds. `output` is what it printed.
macro(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE code OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT code EQUAL 0)
    list(JOIN ARGN " " command)
    message(FATAL_ERROR "${command}\n${output}")
  endif()
endmacro()

# expect(<text>): the last run printed it.
macro(expect text)
  if(NOT output MATCHES "${text}")
    message(FATAL_ERROR "no '${text}' in:\n${output}")
  endif()
endmacro()

# run_with_server(<program>): against the installed normd.
macro(run_with_server)
  run(${PROJECT_DIR}/run.sh ${prefix}/bin/normd ${WORK_DIR}/normd.sock ${ARGN})
endmacro()

run(${CMAKE_COMMAND} --install ${BUILD_DIR} --prefix ${prefix})
foreach(program normd normctl)
  run(${prefix}/bin/${program} --version)
  expect("${VERSION}")
endforeach()

# Nothing that is installed may speak of the tree that it was built in.
file(GLOB_RECURSE files ${prefix}/*.cmake ${prefix}/*.h ${prefix}/*.pc)
foreach(file ${files})
  file(STRINGS ${file} lines REGEX "${BUILD_DIR}")
  if(lines)
    message(FATAL_ERROR "${file} names the build tree: ${lines}")
  endif()
endforeach()

# Every header that is installed compiles with nothing else that is ours.
file(GLOB_RECURSE headers RELATIVE ${prefix}/include ${prefix}/include/*.h)
list(TRANSFORM headers REPLACE "(.+)" "#include \"\\1\"\n")
list(JOIN headers "" all_headers)
file(WRITE ${WORK_DIR}/all_headers.cc "${all_headers}")

# With CMake: the project beside this, its users' test with normd::testing, and an example as a project of its own.
set(configure ${CMAKE_COMMAND} -G ${GENERATOR} -D CMAKE_PREFIX_PATH=${prefix} -D CMAKE_CXX_COMPILER=${CXX_COMPILER}
    -D CMAKE_CXX_COMPILER_LAUNCHER=${LAUNCHER} -D CMAKE_BUILD_TYPE=${BUILD_TYPE})
run(${configure} -S ${PROJECT_DIR} -B ${WORK_DIR}/build -D ALL_HEADERS=${WORK_DIR}/all_headers.cc)
run(${CMAKE_COMMAND} --build ${WORK_DIR}/build)
run_with_server(${WORK_DIR}/build/app)
run(${WORK_DIR}/build/uses_fake)
expect("PASSED +] 1 test")
file(COPY ${EXAMPLES_DIR} DESTINATION ${WORK_DIR})
run(${configure} -S ${WORK_DIR}/examples -B ${WORK_DIR}/examples-build)
run(${CMAKE_COMMAND} --build ${WORK_DIR}/examples-build --target normd_example_observe_and_normalize)
run_with_server(${WORK_DIR}/examples-build/observe_and_normalize)
expect("observations 1600")

# The guide's program compiles.
file(READ ${EXAMPLES_DIR}/../README.md guide)
string(REGEX MATCH "```cpp\n(#include <cstdio>[^`]*)```" block "${guide}")
file(WRITE ${WORK_DIR}/guide.cc "${CMAKE_MATCH_1}")
if(NOT CMAKE_MATCH_1 MATCHES "int main")
  message(FATAL_ERROR "client/cpp/README.md has no program")
endif()

# With pkg-config. A folder with the static libraries alone is what a build without the shared one installs.
set(ENV{PKG_CONFIG_PATH} ${prefix}/${LIBDIR}/pkgconfig)
run(pkg-config --modversion normd)
expect("^${VERSION}\n$")
file(GLOB archives ${prefix}/${LIBDIR}/*.a)
file(COPY ${archives} DESTINATION ${WORK_DIR}/static)
set(kinds static)
if(SHARED)
  list(APPEND kinds shared)
endif()
foreach(kind ${kinds})
  set(flags --cflags --libs normd)
  if(kind STREQUAL static)
    list(PREPEND flags --static --define-variable=libdir=${WORK_DIR}/static)
  endif()
  run(pkg-config ${flags})
  separate_arguments(flags UNIX_COMMAND "${output}")
  foreach(source examples/training_loop.cc guide.cc)
    cmake_path(GET source STEM name)
    run(${LAUNCHER} ${CXX_COMPILER} -std=c++20 -Wall -Werror -c ${WORK_DIR}/${source} -o ${WORK_DIR}/${name}.o
        -I${prefix}/include)
  endforeach()
  run(${CXX_COMPILER} ${WORK_DIR}/training_loop.o -o ${WORK_DIR}/training_loop_${kind} ${flags}
      -Wl,-rpath,${prefix}/${LIBDIR})
  run_with_server(${WORK_DIR}/training_loop_${kind})
  expect("version 401 answers")
  run(ldd ${WORK_DIR}/training_loop_${kind})
  string(FIND "${output}" "libnormd_client.so" uses_shared)
  if((kind STREQUAL shared) STREQUAL (uses_shared EQUAL -1))
    message(FATAL_ERROR "training_loop_${kind} is linked otherwise:\n${output}")
  endif()
endforeach()

# What the shared library shows is normd's public interface and nothing else: nothing of ours from inside, nothing of
# anybody else's.
if(SHARED)
  run(${NM} -D -C --defined-only ${prefix}/${LIBDIR}/libnormd_client.so)
  set(shown "${output}")
  string(REPLACE "\n" ";" symbols "${shown}")
  foreach(symbol ${symbols})
    if(NOT symbol MATCHES " A NORMD_" AND NOT symbol MATCHES "^[0-9a-f]+ [A-Za-z] ((typeinfo|typeinfo name|vtable) for )?normd::abi_[0-9_]+::[A-Z][A-Za-z]+(::|\\(|@|$)")
      message(FATAL_ERROR "libnormd_client.so shows ${symbol}")
    endif()
  endforeach()
  # ... and all of it: what stands in the namespace of the interface is of the public headers.
  run(${NM} -C --defined-only ${prefix}/${LIBDIR}/libnormd_client.a)
  string(REGEX MATCHALL " T normd::abi_[0-9_]+::[A-Z][^\n]*" functions "${output}")
  list(LENGTH functions count)
  foreach(function ${functions})
    string(FIND "${shown}" "${function}@@" at)
    if(at EQUAL -1)
      message(FATAL_ERROR "libnormd_client.so does not show${function}: name it in client/cpp/symbols.map.in")
    endif()
  endforeach()
  if(count LESS 20)
    message(FATAL_ERROR "libnormd_client.a has ${count} public functions:\n${output}")
  endif()
  run(readelf -d ${prefix}/${LIBDIR}/libnormd_client.so)
  string(REGEX MATCH "^[0-9]+\\.[0-9]+" minor ${VERSION})
  expect("SONAME.*libnormd_client\\.so\\.${minor}\\]")
endif()
