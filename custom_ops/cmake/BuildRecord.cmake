# build.json beside the library: what was built, and why not the rest. opau_onnx.native.library reads it.

# JSON's own escapes; a missing value becomes null.
function(opau_json_text out)
  string(JOIN ";" text ${ARGN})
  if(text STREQUAL "")
    set(${out} null PARENT_SCOPE)
    return()
  endif()
  string(REPLACE "\\" "\\\\" text "${text}")
  string(REPLACE "\"" "\\\"" text "${text}")
  string(REGEX REPLACE "[\r\n\t ]+" " " text "${text}")
  set(${out} "\"${text}\"" PARENT_SCOPE)
endfunction()

function(opau_write_record path built reason)
  foreach(key IN ITEMS reason OPAU_CUDA_REASON OPAU_COMPILER OPAU_ORT_HEADER_NOTE OPAU_VERSION OPAU_SANITIZE)
    opau_json_text(json_${key} "${${key}}")
  endforeach()
  set(architectures "[]")
  set(cuda false)
  if(built AND OPAU_CUDA_BUILT)
    set(cuda true)
    string(REPLACE ";" "\", \"" architectures "[\"${OPAU_CUDA_ARCHITECTURES}\"]")
  endif()
  file(WRITE "${path}" "{
  \"built\": ${built},
  \"reason\": ${json_reason},
  \"cuda\": ${cuda},
  \"cuda_architectures\": ${architectures},
  \"cuda_reason\": ${json_OPAU_CUDA_REASON},
  \"compiler\": ${json_OPAU_COMPILER},
  \"onnxruntime_headers\": ${json_OPAU_ORT_HEADER_NOTE},
  \"sanitizers\": ${json_OPAU_SANITIZE},
  \"version\": ${json_OPAU_VERSION}
}
")
endfunction()

# pip hides everything that a build prints which succeeds, unless -v is given: the terminal is told past it, where there is one.
function(opau_tell_terminal text)
  if(SKBUILD AND UNIX)
    execute_process(COMMAND sh -c "printf '\\nWARNING: %s\\n' \"$1\" > /dev/tty" sh "${text}" OUTPUT_QUIET ERROR_QUIET)
  endif()
endfunction()

# A warning now, and the same sentence from get_library_path() later.
function(opau_not_built reason)
  string(CONCAT text "The compiled op library is not built: ${reason}. The package works without it, more slowly, through the "
                     "function that every exported model carries.")
  message(WARNING "${text}")
  opau_tell_terminal("${text}")
  set(OPAU_CUDA_REASON "the library was not built")
  opau_write_record("${CMAKE_CURRENT_BINARY_DIR}/build.json" false "${reason}")
  install(FILES "${CMAKE_CURRENT_BINARY_DIR}/build.json" DESTINATION ${OPAU_DESTINATION})
endfunction()

# Copied beside the library only after it was linked, so that a failing build leaves no record of success.
function(opau_record_build)
  set(OPAU_COMPILER "${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}, ${CMAKE_SYSTEM_NAME} ${CMAKE_SYSTEM_PROCESSOR}")
  if(OPAU_CUDA_BUILT)
    string(APPEND OPAU_COMPILER ", nvcc ${CMAKE_CUDA_COMPILER_VERSION}")
  endif()
  opau_write_record("${CMAKE_CURRENT_BINARY_DIR}/record/build.json" true "")
  add_custom_command(
    TARGET opau_onnx_ops POST_BUILD
    COMMAND ${CMAKE_COMMAND} -E copy "${CMAKE_CURRENT_BINARY_DIR}/record/build.json" "$<TARGET_FILE_DIR:opau_onnx_ops>/build.json")
  install(TARGETS opau_onnx_ops LIBRARY DESTINATION ${OPAU_DESTINATION} RUNTIME DESTINATION ${OPAU_DESTINATION})
  install(FILES "${CMAKE_CURRENT_BINARY_DIR}/record/build.json" DESTINATION ${OPAU_DESTINATION})
endfunction()
