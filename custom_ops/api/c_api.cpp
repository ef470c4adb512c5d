#include "opau/c_api.h"

#include <exception>
#include <new>
#include <string>

#include "opau/activation.hpp"

#ifndef OPAU_VERSION
#define OPAU_VERSION "unknown"
#endif

struct opau_activation {
  std::unique_ptr<const opau::Activation> activation;
};

namespace {

const char* message(std::string text) {
  static thread_local std::string last;
  last = std::move(text);
  return last.c_str();
}

// No exception may leave a C function.
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

const opau::InstructionSet* chosen(int index, std::string* error) {
  const auto& all = opau::instruction_sets();
  if (index == -1) return &opau::best_instruction_set();
  if (index < 0 || index >= int(all.size())) {
    *error = "instruction set " + std::to_string(index) + " does not exist; expected -1 to " + std::to_string(all.size() - 1);
  } else if (!all[size_t(index)]->available()) {
    *error = std::string(all[size_t(index)]->name) + " is not available on this machine";
  }
  return error->empty() ? all[size_t(index)] : nullptr;
}

template <class T>
std::string create(const opau::Config& config, opau::Dtype dtype, const void* numerator, int64_t numerator_rows,
                   const void* denominator, int64_t denominator_rows, const void* scale, const void* shift,
                   const opau::InstructionSet& set, opau_activation** out) {
  std::string error;
  if (!scale != !shift) return "of scale and shift only one is given; expected both or none";
  const opau::Coefficients<T> c{static_cast<const T*>(numerator), numerator_rows, static_cast<const T*>(denominator),
                                denominator_rows, static_cast<const T*>(scale), static_cast<const T*>(shift), scale ? config.groups : 0};
  auto activation = opau::Activation::make(config, dtype, c, &error, set);
  if (activation) *out = new opau_activation{std::move(activation)};
  return error;
}

}  // namespace

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
  return guarded([&]() -> std::string {
    opau::Config config;
    std::string error = opau::find_config(basis, form, k, l, groups, &config);
    if (!error.empty()) return error;
    const opau::InstructionSet* set = chosen(instruction_set, &error);
    if (!set) return error;
    switch (opau::Dtype(dtype)) {
      case opau::Dtype::float64:
        return create<double>(config, opau::Dtype(dtype), numerator, numerator_rows, denominator, denominator_rows, scale, shift, *set, out);
      case opau::Dtype::float32:
      case opau::Dtype::float16:
      case opau::Dtype::bfloat16:
        return create<float>(config, opau::Dtype(dtype), numerator, numerator_rows, denominator, denominator_rows, scale, shift, *set, out);
    }
    return "dtype is " + std::to_string(dtype) + "; expected 1 (float32), 10 (float16), 11 (float64) or 16 (bfloat16)";
  });
}

void opau_destroy(opau_activation* activation) { delete activation; }

const char* opau_run(const opau_activation* activation, const void* x, void* y, int64_t outer, int64_t channels, int64_t inner,
                     int64_t begin, int64_t end, int stream) {
  return guarded([&]() -> std::string {
    const opau::Extent extent{outer, channels, inner};
    const int64_t groups = activation->activation->plan().config.groups;
    if (outer < 0 || inner < 0 || channels < 1 || channels % groups) {
      return "extent (" + std::to_string(outer) + ", " + std::to_string(channels) + ", " + std::to_string(inner) +
             ") does not fit " + std::to_string(groups) + " groups";
    }
    if (begin < 0 || end < begin || end > extent.count()) return "begin and end are outside the tensor";
    activation->activation->run(x, y, extent, begin, end, stream != 0);
    return "";
  });
}

}  // extern "C"
