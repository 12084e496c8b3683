# The compiler and libraries of CUDA for the one library that uses them. From a wheel or from an installed
# toolkit: both have bin/nvcc, include and a lib folder. CMake's own CUDA language wants more of a toolkit than
# the wheels hold, so one rule compiles a kernel file.

set(MAYFLY_CUDA_ROOT "${CMAKE_SOURCE_DIR}/.venv-cuda/lib/python3.11/site-packages/nvidia/cu13" CACHE PATH
    "The folder of a CUDA 13 toolkit")
if(NOT EXISTS ${MAYFLY_CUDA_ROOT}/bin/nvcc)
  message(FATAL_ERROR "no nvcc in ${MAYFLY_CUDA_ROOT}: run './dev build --cuda'")
endif()
find_file(MAYFLY_CUDART libcudart.so.13 PATHS ${MAYFLY_CUDA_ROOT}/lib ${MAYFLY_CUDA_ROOT}/lib64
    NO_DEFAULT_PATH REQUIRED)

# Machine code for the GPUs at hand, and code that newer ones compile when they load it.
set(MAYFLY_CUDA_ARCHITECTURES
    -gencode=arch=compute_80,code=sm_80
    -gencode=arch=compute_90,code=sm_90
    -gencode=arch=compute_90,code=compute_90)

# libtorch's CUDA libraries, which the program itself never links: it loads them when asked for a GPU. What they
# need in turn is not looked for here; on a machine with a GPU it lies beside them.
add_library(mayfly_torch_cuda INTERFACE)
target_link_libraries(mayfly_torch_cuda INTERFACE mayfly_torch
    -Wl,--allow-shlib-undefined -ltorch_cuda -lc10_cuda ${MAYFLY_CUDART})
target_include_directories(mayfly_torch_cuda SYSTEM INTERFACE ${MAYFLY_CUDA_ROOT}/include)

# mayfly_cuda_object(out_variable file.cu HEADERS a.h ...)
function(mayfly_cuda_object out source)
  cmake_parse_arguments(arg "" "" "HEADERS" ${ARGN})
  set(object ${CMAKE_CURRENT_BINARY_DIR}/${source}.o)
  list(TRANSFORM arg_HEADERS PREPEND ${CMAKE_CURRENT_SOURCE_DIR}/)
  # --compiler-options takes one list with commas.
  set(host_options -fPIC,-fvisibility=hidden,-Wall,-Wextra,-Wshadow)
  if(MAYFLY_WERROR)
    string(APPEND host_options ",-Werror")
    set(werror --Werror=all-warnings)
  endif()
  add_custom_command(
    OUTPUT ${object}
    COMMAND ${MAYFLY_CUDA_ROOT}/bin/nvcc -c -O3 -std=c++20 -ccbin ${CMAKE_CXX_COMPILER}
            ${MAYFLY_CUDA_ARCHITECTURES} --compiler-options ${host_options} ${werror}
            -I${CMAKE_SOURCE_DIR} ${CMAKE_CURRENT_SOURCE_DIR}/${source} -o ${object}
    DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${source} ${arg_HEADERS}
    COMMENT "Compiling ${source} for GPUs"
    VERBATIM)
  set(${out} ${object} PARENT_SCOPE)
endfunction()
