cmake_minimum_required(VERSION 3.25)

# Everything public in the SDK's headers is explained, and Doxygen understands it.
# cmake -D SOURCE_DIR=<checkout> -D OUTPUT_DIR=<folder> -D DOXYGEN=<program> -P tests/client/doxygen_test.cmake
file(REMOVE_RECURSE ${OUTPUT_DIR})
file(MAKE_DIRECTORY ${OUTPUT_DIR})
file(READ ${SOURCE_DIR}/client/cpp/Doxyfile doxyfile)
file(WRITE ${OUTPUT_DIR}/Doxyfile "${doxyfile}\nOUTPUT_DIRECTORY = ${OUTPUT_DIR}\n")
execute_process(COMMAND ${DOXYGEN} ${OUTPUT_DIR}/Doxyfile WORKING_DIRECTORY ${SOURCE_DIR} RESULT_VARIABLE code
                ERROR_VARIABLE errors)
if(NOT code EQUAL 0)
  message(FATAL_ERROR "doxygen client/cpp/Doxyfile:\n${errors}")
endif()
# Of one method, its comment, under the name that users write: the filter works.
set(page ${OUTPUT_DIR}/html/classnormd_1_1Client.html)
file(READ ${page} text)
if(NOT text MATCHES "Normalizes a batch as the layer's settings say" OR NOT text MATCHES "ALREADY_EXISTS: the name is taken")
  message(FATAL_ERROR "${page} does not have the header's comments")
endif()
