# find_package(bpftime): the target bpftime::eim has the header bpftime/eim.h, for C and C++. Nothing is linked.
if(NOT TARGET bpftime::eim)
  add_library(bpftime::eim INTERFACE IMPORTED)
  get_filename_component(_bpftime_prefix "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)
  set_target_properties(bpftime::eim PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${_bpftime_prefix}/include")
  unset(_bpftime_prefix)
endif()
