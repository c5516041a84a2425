cmake_minimum_required(VERSION 3.25)

# The test that CMakeLists.txt beside this registers.
set(prefix ${WORK_DIR}/prefix)
file(REMOVE_RECURSE ${WORK_DIR})
file(MAKE_DIRECTORY ${WORK_DIR})

function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE code OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT code EQUAL 0)
    list(JOIN ARGN " " command)
    message(FATAL_ERROR "${command}\n${output}")
  endif()
endfunction()

run(${CMAKE_COMMAND} --install ${BUILD_DIR} --prefix ${prefix} --component sdk)

# Nothing that is installed may speak of the tree that it was built in.
file(GLOB_RECURSE files ${prefix}/*.cmake ${prefix}/*.h)
foreach(file ${files})
  file(STRINGS ${file} lines REGEX "${BUILD_DIR}")
  if(lines)
    message(FATAL_ERROR "${file} names the build tree: ${lines}")
  endif()
endforeach()

run(${CMAKE_COMMAND} -S ${PROJECT_DIR} -B ${WORK_DIR}/build -G ${GENERATOR} -D CMAKE_PREFIX_PATH=${prefix}
    -D CMAKE_CXX_COMPILER=${CXX_COMPILER} -D CMAKE_CXX_COMPILER_LAUNCHER=${LAUNCHER} -D CMAKE_BUILD_TYPE=${BUILD_TYPE})
run(${CMAKE_COMMAND} --build ${WORK_DIR}/build)
run(${PROJECT_DIR}/run.sh ${SERVER} ${WORK_DIR}/build/app ${WORK_DIR}/normd.sock)
