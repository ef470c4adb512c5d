# The target. Sources are found by folder; an instruction set's flags go to its file alone.
set(OPAU_SOURCES "")
set(folders cpu api certify)
if(OPAU_ORT)
  list(APPEND folders ort)
endif()
foreach(folder IN LISTS folders)
  file(GLOB found CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/${folder}/*.cpp")
  list(APPEND OPAU_SOURCES ${found})
endforeach()
if(OPAU_CUDA_BUILT)
  file(GLOB found CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/cuda/*.cpp")
  list(APPEND OPAU_SOURCES ${found} ${OPAU_CUDA_SOURCES})
endif()

set(OPAU_X86 OFF)
set(OPAU_ARM OFF)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|amd64|AMD64)$" AND NOT CMAKE_OSX_ARCHITECTURES MATCHES "arm64")
  set(OPAU_X86 ON)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64|ARM64)$")
  set(OPAU_ARM ON)
endif()
if(NOT OPAU_X86)
  list(FILTER OPAU_SOURCES EXCLUDE REGEX "/cpu/(avx|scalar_fma)[^/]*\\.cpp$")
endif()
if(NOT OPAU_ARM)
  list(FILTER OPAU_SOURCES EXCLUDE REGEX "/cpu/neon[^/]*\\.cpp$")
endif()
foreach(source IN LISTS OPAU_SOURCES)
  if(source MATCHES "/cpu/avx512[^/]*\\.cpp$")
    set(flags -mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma -mf16c)
    if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
      list(APPEND flags -Wno-maybe-uninitialized -Wno-uninitialized)  # false alarms inside g++ 12's own intrinsics
    endif()
    set(msvc_flags /arch:AVX512)
  elseif(source MATCHES "/cpu/avx2[^/]*\\.cpp$")
    set(flags -mavx2 -mfma -mf16c)
    set(msvc_flags /arch:AVX2)
  elseif(source MATCHES "/cpu/scalar_fma\\.cpp$")
    set(flags -mfma)
    set(msvc_flags /arch:AVX2)
  else()
    continue()
  endif()
  if(MSVC)
    set(flags ${msvc_flags})
  endif()
  set_source_files_properties("${source}" PROPERTIES COMPILE_OPTIONS "${flags}")
endforeach()

set(OPAU_TABLES "${CMAKE_CURRENT_BINARY_DIR}/generated/opau/tables.hpp")
file(MAKE_DIRECTORY "${CMAKE_CURRENT_BINARY_DIR}/generated/opau")
add_custom_command(
  OUTPUT "${OPAU_TABLES}"
  COMMAND Python3::Interpreter "${CMAKE_CURRENT_SOURCE_DIR}/generate_tables.py" "${OPAU_TABLES}"
  DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/generate_tables.py" "${CMAKE_CURRENT_SOURCE_DIR}/../opau_onnx/core/spec.py"
          "${CMAKE_CURRENT_SOURCE_DIR}/../opau_onnx/core/bases.py"
  VERBATIM)

find_package(Threads REQUIRED)
add_library(opau_onnx_ops SHARED ${OPAU_SOURCES} "${OPAU_TABLES}")
target_include_directories(opau_onnx_ops PRIVATE "${CMAKE_CURRENT_SOURCE_DIR}" "${CMAKE_CURRENT_SOURCE_DIR}/include"
                                                 "${CMAKE_CURRENT_BINARY_DIR}/generated")
if(OPAU_ORT)
  target_include_directories(opau_onnx_ops SYSTEM PRIVATE "${OPAU_ORT_HEADER_DIR}")
endif()
target_compile_definitions(opau_onnx_ops PRIVATE OPAU_VERSION="${OPAU_VERSION}")
target_link_libraries(opau_onnx_ops PRIVATE Threads::Threads)
set_target_properties(opau_onnx_ops PROPERTIES
  CXX_STANDARD 17 CXX_STANDARD_REQUIRED ON CXX_EXTENSIONS OFF CUDA_STANDARD 17 CUDA_STANDARD_REQUIRED ON
  CXX_VISIBILITY_PRESET hidden CUDA_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON
  LIBRARY_OUTPUT_DIRECTORY "${CMAKE_CURRENT_BINARY_DIR}" RUNTIME_OUTPUT_DIRECTORY "${CMAKE_CURRENT_BINARY_DIR}")
if(OPAU_CUDA_BUILT)
  target_compile_definitions(opau_onnx_ops PRIVATE OPAU_WITH_CUDA=1)
  # C++ files that see cuda_runtime.h; nvcc adds the folder by itself.
  target_include_directories(opau_onnx_ops SYSTEM PRIVATE ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
endif()

if(MSVC)
  target_compile_options(opau_onnx_ops PRIVATE $<$<COMPILE_LANGUAGE:CXX>:/fp:precise /W3>)
else()
  # The same bits everywhere: the compiler may neither contract nor reorder..
  target_compile_options(opau_onnx_ops PRIVATE
    $<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-ffp-contract=off;-fno-math-errno>
    $<$<COMPILE_LANGUAGE:CUDA>:--fmad=false;-Xcompiler=-ffp-contract=off,-fno-math-errno>)
  # A third of the size: most of a kernel with parameters by value is the image of its zeroed constant bank.
  if(OPAU_CUDA_BUILT AND CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 13)
    target_compile_options(opau_onnx_ops PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:--compress-mode=size>)
  endif()
endif()
if(OPAU_SANITIZE)
  target_compile_options(opau_onnx_ops PRIVATE -fsanitize=${OPAU_SANITIZE} -fno-omit-frame-pointer)
  target_link_options(opau_onnx_ops PRIVATE -fsanitize=${OPAU_SANITIZE})
endif()

if(CMAKE_SYSTEM_NAME STREQUAL "Linux")
  set(exports "${CMAKE_CURRENT_SOURCE_DIR}/cmake/exports.map")
  target_link_options(opau_onnx_ops PRIVATE "LINKER:--version-script=${exports}")
  set_target_properties(opau_onnx_ops PROPERTIES LINK_DEPENDS "${exports}")
  if(NOT OPAU_SANITIZE)
    # Its own C++ runtime, since the process may hold others; and no symbol left for onnxruntime to provide.
    target_link_options(opau_onnx_ops PRIVATE -static-libstdc++ -static-libgcc LINKER:-z,defs LINKER:--gc-sections)
  endif()
endif()
