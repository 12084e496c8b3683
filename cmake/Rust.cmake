# Rust crates as static libraries. Any cargo of the version that the crate names will do: a
# distribution's package or rustup's.

# Debian's wrapper lies outside of the usual path.
find_program(MAYFLY_CARGO cargo HINTS $ENV{HOME}/.cargo/bin PATHS /usr/share/cargo/bin REQUIRED)

# mayfly_rust_library(name DIR crate folder SRCS files that cargo builds from)
# `name` is the [lib] name of the crate and the imported target that C++ links with.
function(mayfly_rust_library name)
  cmake_parse_arguments(arg "" "DIR" "SRCS" ${ARGN})
  list(TRANSFORM arg_SRCS PREPEND ${arg_DIR}/)
  set(target_dir ${CMAKE_BINARY_DIR}/rust)
  set(archive ${target_dir}/release/lib${name}.a)
  # cargo leaves a fresh archive untouched; ninja would then call it in every build.
  add_custom_command(
    OUTPUT ${archive}
    COMMAND ${CMAKE_COMMAND} -E env CARGO_TARGET_DIR=${target_dir}
            ${MAYFLY_CARGO} build --quiet --release --locked --manifest-path ${arg_DIR}/Cargo.toml
    COMMAND ${CMAKE_COMMAND} -E touch ${archive}
    DEPENDS ${arg_DIR}/Cargo.toml ${arg_DIR}/Cargo.lock ${arg_SRCS}
    COMMENT "Building the Rust library ${name}"
    VERBATIM)
  add_custom_target(${name}_build DEPENDS ${archive})
  add_library(${name} STATIC IMPORTED GLOBAL)
  set_target_properties(${name} PROPERTIES IMPORTED_LOCATION ${archive})
  target_link_libraries(${name} INTERFACE Threads::Threads ${CMAKE_DL_LIBS} m)
  add_dependencies(${name} ${name}_build)
endfunction()
