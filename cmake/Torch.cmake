# libtorch from the PyPI wheel as one imported target. The wheel's own CMake package insists on a whole
# CUDA toolkit; its CPU library needs only the two runtime libraries beside it. `--no-as-needed`: the
# linker otherwise drops libtorch_cpu, and with it the CPU backend that registers itself at load.
# `-fopenmp`: at::parallel_for is a template, and without OpenMP it quietly runs on one thread. The wheel
# brings its own libgomp; a process must have one only.

if(NOT EXISTS ${MAYFLY_TORCH_SITE}/torch/lib/libtorch_cpu.so)
  message(FATAL_ERROR "no libtorch in ${MAYFLY_TORCH_SITE}: run './dev setup'")
endif()

add_library(mayfly_torch INTERFACE)
target_include_directories(mayfly_torch SYSTEM INTERFACE ${MAYFLY_TORCH_SITE}/torch/include)
target_compile_options(mayfly_torch INTERFACE -fopenmp)
target_link_libraries(mayfly_torch INTERFACE
    -L${MAYFLY_TORCH_SITE}/torch/lib
    -Wl,--no-as-needed -ltorch_cpu -lc10 -l:libgomp.so.1 -Wl,--as-needed
    -Wl,-rpath,${MAYFLY_TORCH_SITE}/torch/lib
    -Wl,-rpath,${MAYFLY_TORCH_SITE}/nvidia/cu13/lib)
