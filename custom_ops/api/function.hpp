// What the plain C interface's training functions share, on the CPU and on CUDA.
#pragma once
#include "api/guard.hpp"

struct opau_function {
  opau::Config config;
  const opau::InstructionSet* set;
};

namespace opau::api {

// Runs body(Coefficients<T>) for tensors that are there and fit. x and other: those that must have memory.
template <class Run>
const char* checked(const opau_function* function, int dtype, const Given& given, const Extent& extent, const void* x, const void* other,
                    const Run& run) {
  return guarded([&]() -> std::string {
    const bool none = extent.outer >= 0 && extent.channels == 0 && extent.inner >= 0;  // no channels: every number of groups fits
    if (auto error = extent_error(extent, function->config.groups); !none && !error.empty()) return error;
    const bool coefficients = given.numerator && (given.denominator || !denominator_size(function->config));
    if (!coefficients || (extent.count() && (!x || !other))) return "a tensor has no memory: its storage was freed or never allocated";
    return with_type(function->config, dtype, given, run);
  });
}

inline const char* one_gradient(const opau_function* function, const void* numerator, const void* denominator) {
  if (!numerator == !denominator || !denominator_size(function->config)) return nullptr;
  return message("of the coefficients' gradients only one is given; expected both or none");
}

}  // namespace opau::api
