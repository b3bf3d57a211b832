# Build rules shared by every folder: compile flags, one static library per folder, one test binary per folder.

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_C_STANDARD 11)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)

find_program(CCACHE ccache)
if(CCACHE)
  set(CMAKE_C_COMPILER_LAUNCHER ${CCACHE})
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CCACHE})
endif()

# clang-19 makes BPF objects and the bitcode of maps and helpers (decision: docs/architecture.md).
find_program(BPFTIME_CLANG NAMES clang-19 REQUIRED)

# Not in release builds: at -O3 g++ 12 warns of what cannot be, and who only wants to install must not be stopped by that.
add_compile_options(-Wall -Wextra $<$<NOT:$<CONFIG:Release>>:-Werror> -Wno-missing-field-initializers -fno-strict-aliasing)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # With optimisation, g++ 12 sees overlap in every `"literal" + std::string` (GCC bug 105651).
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-Wno-restrict>)
endif()

set(BPFTIME_SANITIZER "" CACHE STRING "address or thread: instrument daemon, CLI and tests (never what enters a target)")
if(BPFTIME_SANITIZER STREQUAL "address")
  set(BPFTIME_SANITIZE -fsanitize=address,undefined -fno-omit-frame-pointer -fno-sanitize-recover=undefined)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # Instrumented, std::regex looks to it as if used uninitialised.
    list(APPEND BPFTIME_SANITIZE -Wno-maybe-uninitialized)
    # As a shared library beside AddressSanitizer's it forgets where its reports are to go.
    add_link_options(-static-libubsan)
  endif()
elseif(BPFTIME_SANITIZER STREQUAL "thread")
  set(BPFTIME_SANITIZE -fsanitize=thread -fno-omit-frame-pointer)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # It warns that it does not understand fences. Ours order atomic accesses only, of which it needs to know nothing.
    list(APPEND BPFTIME_SANITIZE -Wno-tsan)
  endif()
endif()

# Instrumented, a file that includes LLVM takes 0.4 to 0.8 GB to compile: at most four at once, however many build.
if(BPFTIME_SANITIZE)
  set_property(GLOBAL APPEND PROPERTY JOB_POOLS large_files=4)
endif()

option(BPFTIME_FUZZ "Build the fuzz targets (needs clang: preset fuzz)" OFF)
if(BPFTIME_FUZZ)
  if(NOT CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
    message(FATAL_ERROR "BPFTIME_FUZZ: ${CMAKE_CXX_COMPILER_ID} has no libFuzzer; use `cmake --preset fuzz`")
  endif()
  # Every library is instrumented for coverage; only the targets themselves get libFuzzer's main.
  list(APPEND BPFTIME_SANITIZE -fsanitize=fuzzer-no-link)
  # What `make fuzz` builds: the fuzz targets and the libraries they need, not the instrumented daemon nobody runs.
  add_custom_target(fuzz_targets)
endif()

# bpftime_library(name SOURCES a.cc … LINKS other … PRIVATE_LINKS … DEFINITIONS …): the static library bpftime_<name> of folder
# src/<name>. bpftime_<name>_plain is the same never instrumented, for what runs in other people's processes.
function(bpftime_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINKS;PRIVATE_LINKS;DEFINITIONS" ${ARGN})
  bpftime_library_target(bpftime_${name} "${BPFTIME_SANITIZE}")
  if(BPFTIME_SANITIZE)
    list(TRANSFORM ARG_LINKS REPLACE "^bpftime_.*$" "\\0_plain")
    bpftime_library_target(bpftime_${name}_plain "")
    set_target_properties(bpftime_${name}_plain PROPERTIES EXCLUDE_FROM_ALL TRUE)
  else()
    add_library(bpftime_${name}_plain ALIAS bpftime_${name})
  endif()
endfunction()

# bpftime_large_files(target …): their files take much memory to compile with a sanitizer.
function(bpftime_large_files)
  if(BPFTIME_SANITIZE)
    set_target_properties(${ARGN} PROPERTIES JOB_POOL_COMPILE large_files)
  endif()
endfunction()

# One of the two, of the arguments its caller parsed.
function(bpftime_library_target target sanitize)
  if(ARG_SOURCES)
    add_library(${target} STATIC ${ARG_SOURCES})
    set(scope PUBLIC)
    target_compile_options(${target} PRIVATE ${sanitize})
    target_link_options(${target} INTERFACE ${sanitize})  # whoever links instrumented code needs the sanitizer's runtime
    target_link_libraries(${target} PRIVATE ${ARG_PRIVATE_LINKS})
  else()
    add_library(${target} INTERFACE)
    set(scope INTERFACE)
  endif()
  target_compile_definitions(${target} ${scope} ${ARG_DEFINITIONS})
  target_include_directories(${target} ${scope} ${PROJECT_SOURCE_DIR}/src ${PROJECT_SOURCE_DIR}/include)
  target_link_libraries(${target} ${scope} ${ARG_LINKS})
endfunction()

# bpftime_test(name SOURCES a_test.cc … LINKS …): one GoogleTest binary, one CTest entry.
# LABELS: long (only `make test-long`). TIMEOUT: seconds, default 600: machines that do other things, too, are slow.
# SERIAL: starts daemons, probes other processes or loads the machine: never beside another test.
function(bpftime_test name)
  if(NOT BUILD_TESTING)
    return()
  endif()
  cmake_parse_arguments(ARG "SERIAL" "TIMEOUT" "SOURCES;LINKS;LABELS;ENVIRONMENT" ${ARGN})
  find_package(GTest REQUIRED)
  add_executable(${name} ${ARG_SOURCES})
  target_compile_options(${name} PRIVATE ${BPFTIME_SANITIZE})
  target_link_options(${name} PRIVATE ${BPFTIME_SANITIZE})
  target_link_libraries(${name} PRIVATE ${ARG_LINKS} GTest::gmock GTest::gtest_main)
  add_test(NAME ${name} COMMAND ${name})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 600)
  endif()
  set_tests_properties(${name} PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS "${ARG_LABELS}"
    ENVIRONMENT "BPFTIME_SOURCE_DIR=${PROJECT_SOURCE_DIR};BPFTIME_BIN_DIR=${CMAKE_BINARY_DIR}/bin;${ARG_ENVIRONMENT}")
  if(ARG_SERIAL)
    set_tests_properties(${name} PROPERTIES RUN_SERIAL TRUE)
  endif()
endfunction()

# bpftime_fuzz(name SOURCES a_fuzz.cc LINKS …): one libFuzzer binary (entry LLVMFuzzerTestOneInput), with BPFTIME_FUZZ only.
# By convention the name ends in _fuzz; seeds may lie in tests/seeds/<name>/.
function(bpftime_fuzz name)
  if(NOT BPFTIME_FUZZ)
    return()
  endif()
  cmake_parse_arguments(ARG "" "" "SOURCES;LINKS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_compile_options(${name} PRIVATE ${BPFTIME_SANITIZE})
  target_link_options(${name} PRIVATE ${BPFTIME_SANITIZE} -fsanitize=fuzzer)
  target_link_libraries(${name} PRIVATE ${ARG_LINKS})
  add_dependencies(fuzz_targets ${name})
endfunction()

# The header for applications, so that `find_package(bpftime)` and `pkg-config bpftime` find it wherever the prefix is moved to,
# and the example that starts from there (docs/eim.md).
function(bpftime_install_package)
  include(CMakePackageConfigHelpers)
  install(DIRECTORY include/ DESTINATION include COMPONENT development)
  write_basic_package_version_file(${PROJECT_BINARY_DIR}/bpftime-config-version.cmake COMPATIBILITY SameMajorVersion
    ARCH_INDEPENDENT)
  install(FILES cmake/bpftime-config.cmake ${PROJECT_BINARY_DIR}/bpftime-config-version.cmake DESTINATION lib/cmake/bpftime
    COMPONENT development)
  configure_file(cmake/bpftime.pc.in ${PROJECT_BINARY_DIR}/bpftime.pc @ONLY)
  install(FILES ${PROJECT_BINARY_DIR}/bpftime.pc DESTINATION lib/pkgconfig COMPONENT development)
  install(DIRECTORY example/minimal_host DESTINATION share/bpftime COMPONENT development USE_SOURCE_PERMISSIONS PATTERN test.sh EXCLUDE)
endfunction()

# bpftime_install(target …): into the prefix itself, not into bin/ or lib/: the quick start puts that one folder on PATH, and
# the command finds the daemon and the libraries beside itself. Targets that do not exist (yet) are passed over.
function(bpftime_install)
  foreach(target ${ARGN})
    if(TARGET ${target})
      install(TARGETS ${target} RUNTIME DESTINATION . COMPONENT programs LIBRARY DESTINATION . COMPONENT programs)
    endif()
  endforeach()
endfunction()
