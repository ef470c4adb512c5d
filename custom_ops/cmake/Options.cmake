# What can be chosen, each with its default.
set(OPAU_CUDA AUTO CACHE STRING "Build the CUDA kernels: AUTO (when nvcc works), ON (an error when it does not) or OFF")
set_property(CACHE OPAU_CUDA PROPERTY STRINGS AUTO ON OFF)
set(OPAU_CUDA_ARCHITECTURES "75;80-real;86-real;89-real;90-real;100-real;120" CACHE STRING
    "Machine code for each, and PTX for those without -real: of 75 for architectures between, of 120 for later ones; `native` builds for this machine's GPU alone")
set(OPAU_SANITIZE "" CACHE STRING "Sanitizers of g++ or clang++, such as address,undefined or thread")
option(OPAU_ORT "Build onnxruntime's entry point; OFF: the plain C interface alone, which needs no header of onnxruntime" ON)
set(OPAU_ORT_INCLUDE "" CACHE PATH "Folder of onnxruntime_c_api.h")
set(OPAU_CACHE "" CACHE PATH "Where fetched headers are kept (default: the user's cache)")
option(OPAU_FETCH "Fetch onnxruntime's C header when this machine has none" ON)

if(NOT OPAU_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "OPAU_CUDA is '${OPAU_CUDA}'; expected AUTO, ON or OFF")
endif()
if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()

# The package's version has one place.
file(STRINGS "${CMAKE_CURRENT_SOURCE_DIR}/../opau_onnx/_version.py" OPAU_VERSION REGEX "^__version__")
string(REGEX REPLACE ".*\"(.*)\".*" "\\1" OPAU_VERSION "${OPAU_VERSION}")
set(OPAU_DESTINATION opau_onnx/lib)  # inside the wheel
