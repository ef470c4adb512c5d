#include "opau/c_api.h"

#include "api/guard.hpp"
#include "opau/activation.hpp"

#ifndef OPAU_VERSION
#define OPAU_VERSION "unknown"
#endif

struct opau_activation {
  std::unique_ptr<const opau::Activation> activation;
};

extern "C" {

const char* opau_version(void) { return OPAU_VERSION; }

int opau_instruction_set_count(void) { return int(opau::instruction_sets().size()); }

const char* opau_instruction_set_name(int index) {
  return index >= 0 && index < opau_instruction_set_count() ? opau::instruction_sets()[size_t(index)]->name : nullptr;
}

int opau_instruction_set_available(int index) {
  return index >= 0 && index < opau_instruction_set_count() && opau::instruction_sets()[size_t(index)]->available();
}

const char* opau_create(const char* basis, const char* form, int64_t k, int64_t l, int64_t groups, int dtype,
                        const void* numerator, int64_t numerator_rows, const void* denominator, int64_t denominator_rows,
                        const void* scale, const void* shift, int instruction_set, opau_activation** out) {
  *out = nullptr;
  return opau::api::guarded([&]() -> std::string {
    opau::Config config;
    std::string error = opau::find_config(basis, form, k, l, groups, &config);
    if (!error.empty()) return error;
    const opau::InstructionSet* set = opau::api::chosen_set(instruction_set, &error);
    if (!set) return error;
    const opau::api::Given given{numerator, numerator_rows, denominator, denominator_rows, scale, shift};
    return opau::api::with_type(config, dtype, given, [&](const auto& coefficients) {
      auto activation = opau::Activation::make(config, opau::Dtype(dtype), coefficients, &error, *set);
      if (activation) *out = new opau_activation{std::move(activation)};
      return error;
    });
  });
}

void opau_destroy(opau_activation* activation) { delete activation; }

const char* opau_run(const opau_activation* activation, const void* x, void* y, int64_t outer, int64_t channels, int64_t inner,
                     int64_t begin, int64_t end, int stream) {
  return opau::api::guarded([&]() -> std::string {
    const opau::Extent extent{outer, channels, inner};
    if (auto error = opau::api::extent_error(extent, activation->activation->plan().config.groups); !error.empty()) return error;
    if (begin < 0 || end < begin || end > extent.count()) return "begin and end are outside the tensor";
    activation->activation->run(x, y, extent, begin, end, stream != 0);
    return "";
  });
}

}  // extern "C"
