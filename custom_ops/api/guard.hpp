// Messages of the plain C interface: errors become texts, and no exception leaves a C function.
#pragma once
#include <exception>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>

#include "opau/activation.hpp"

namespace opau::api {

// Kept until the thread's next message.
inline const char* message(std::string text) {
  static thread_local std::string last;
  last = std::move(text);
  return last.c_str();
}

// Runs `body`, which returns "" or what is wrong.
template <class Body>
const char* guarded(const Body& body) {
  try {
    std::string error = body();
    return error.empty() ? nullptr : message(std::move(error));
  } catch (const std::bad_alloc&) {
    return "out of memory";
  } catch (const std::exception& error) {
    return message(error.what());
  } catch (...) {
    return "unknown error";
  }
}

// By its index, -1 for the best; null and what is wrong.
inline const InstructionSet* chosen_set(int index, std::string* error) {
  const auto& all = instruction_sets();
  if (index == -1) return &best_instruction_set();
  if (index < 0 || index >= int(all.size())) {
    *error = "instruction set " + std::to_string(index) + " does not exist; expected -1 to " + std::to_string(all.size() - 1);
  } else if (!all[size_t(index)]->available()) {
    *error = std::string(all[size_t(index)]->name) + " is not available on this machine";
  }
  return error->empty() ? all[size_t(index)] : nullptr;
}

// What a caller of opau_create and opau_cuda_create gives, apart from the element type.
struct Given {
  const void* numerator;
  int64_t numerator_rows;
  const void* denominator;
  int64_t denominator_rows;
  const void* scale;
  const void* shift;

  template <class T>
  Coefficients<T> as(const Config& config) const {
    return {static_cast<const T*>(numerator), numerator_rows, static_cast<const T*>(denominator), denominator_rows,
            static_cast<const T*>(scale), static_cast<const T*>(shift), scale ? config.groups : 0};
  }
};

// Calls make(Coefficients<T>) with the T that `dtype` computes in; "" or what is wrong.
template <class Make>
std::string with_type(const Config& config, int dtype, const Given& given, const Make& make) {
  if (!given.scale != !given.shift) return "of scale and shift only one is given; expected both or none";
  switch (Dtype(dtype)) {
    case Dtype::float64:
      return make(given.as<double>(config));
    case Dtype::float32:
    case Dtype::float16:
    case Dtype::bfloat16:
      return make(given.as<float>(config));
  }
  return "dtype is " + std::to_string(dtype) + "; expected 1 (float32), 10 (float16), 11 (float64) or 16 (bfloat16)";
}

// Whether groups divide the channels of an extent; "" or what is wrong.
inline std::string extent_error(const Extent& extent, int64_t groups) {
  if (extent.outer >= 0 && extent.inner >= 0 && extent.channels >= 1 && extent.channels % groups == 0) return "";
  return "extent (" + std::to_string(extent.outer) + ", " + std::to_string(extent.channels) + ", " + std::to_string(extent.inner) +
         ") does not fit " + std::to_string(groups) + " groups";
}

}  // namespace opau::api
