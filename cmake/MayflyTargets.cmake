# What every target of the project shares, and one function a kind of target.

add_library(mayfly_flags INTERFACE)
target_compile_options(mayfly_flags INTERFACE -Wall -Wextra -Wshadow)
if(MAYFLY_WERROR)
  target_compile_options(mayfly_flags INTERFACE -Werror)
endif()
if(MAYFLY_SANITIZE)
  # Instrumented code hides from GCC what an optional holds.
  target_compile_options(mayfly_flags INTERFACE
      -fsanitize=${MAYFLY_SANITIZE} -fno-omit-frame-pointer -Wno-maybe-uninitialized)
  target_link_options(mayfly_flags INTERFACE -fsanitize=${MAYFLY_SANITIZE})
endif()
target_include_directories(mayfly_flags INTERFACE ${CMAKE_SOURCE_DIR})

# mayfly_library(name SRCS a.cc ... [DEPS public ...] [PRIVATE_DEPS private ...])
function(mayfly_library name)
  cmake_parse_arguments(arg "" "" "SRCS;DEPS;PRIVATE_DEPS" ${ARGN})
  add_library(${name} STATIC ${arg_SRCS})
  target_link_libraries(${name} PUBLIC mayfly_flags ${arg_DEPS} PRIVATE ${arg_PRIVATE_DEPS})
endfunction()

# mayfly_binary(name SRCS a.cc ... DEPS ...)
function(mayfly_binary name)
  cmake_parse_arguments(arg "" "" "SRCS;DEPS" ${ARGN})
  add_executable(${name} ${arg_SRCS})
  target_link_libraries(${name} PRIVATE mayfly_flags ${arg_DEPS})
endfunction()

# mayfly_test(name SRCS a_test.cc ... DEPS ... LABEL unit|torch|gpu|e2e [TIMEOUT seconds] [ONE_THREAD])
# ONE_THREAD: OpenMP has one, since tiny products gain nothing from more.
function(mayfly_test name)
  cmake_parse_arguments(arg "ONE_THREAD" "LABEL;TIMEOUT" "SRCS;DEPS" ${ARGN})
  add_executable(${name} ${arg_SRCS})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  target_link_libraries(${name} PRIVATE mayfly_flags ${arg_DEPS} GTest::gmock GTest::gtest_main)
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 60)
  endif()
  add_test(NAME ${name} COMMAND ${name} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  # Spinning threads would starve the tests that run beside this one.
  set_tests_properties(${name} PROPERTIES LABELS ${arg_LABEL} TIMEOUT ${arg_TIMEOUT}
      # A sanitizer's allocator ends the process where the usual one fails, as tests want it to.
      ENVIRONMENT "GOMP_SPINCOUNT=1000;ASAN_OPTIONS=allocator_may_return_null=1")
  if(arg_ONE_THREAD)
    set_property(TEST ${name} APPEND PROPERTY ENVIRONMENT OMP_NUM_THREADS=1)
  endif()
endfunction()

# mayfly_python_test(name SCRIPT a_test.py LABEL unit|e2e|deploy TIMEOUT seconds)
# Runs in the folder of the script. One that drives the built programs finds them by MAYFLYD and MAYFLY.
function(mayfly_python_test name)
  cmake_parse_arguments(arg "" "SCRIPT;LABEL;TIMEOUT" "" ${ARGN})
  add_test(NAME ${name}
           COMMAND ${CMAKE_SOURCE_DIR}/.venv/bin/python ${arg_SCRIPT} -v
           WORKING_DIRECTORY ${CMAKE_CURRENT_SOURCE_DIR})
  set(environment PYTHONDONTWRITEBYTECODE=1)
  if(TARGET mayflyd)
    list(APPEND environment MAYFLYD=$<TARGET_FILE:mayflyd> MAYFLY=$<TARGET_FILE:mayfly>)
  endif()
  set_tests_properties(${name} PROPERTIES
      LABELS ${arg_LABEL} TIMEOUT ${arg_TIMEOUT} ENVIRONMENT "${environment}")
endfunction()
