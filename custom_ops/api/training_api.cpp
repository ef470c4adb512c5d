#include "opau/training_api.h"

#include <type_traits>

#include "api/function.hpp"
#include "opau/training.hpp"

namespace {

using opau::api::checked;
using opau::api::Given;

class Threads final : public opau::Parallel {
 public:
  explicit Threads(opau_parallel_for parallel) : parallel_(parallel) {}
  void run(int64_t count, opau::ParallelBody body, void* context) const override {
    if (count < 2 || !parallel_) {
      if (count) body(0, count, context);
    } else if (parallel_(0, count, 1, body, context)) {
      throw std::runtime_error("the caller's threads failed");
    }
  }

 private:
  opau_parallel_for parallel_;
};

}  // namespace

extern "C" {

const char* opau_function_create(const char* basis, const char* form, int64_t k, int64_t l, int64_t groups, int instruction_set,
                                 opau_function** out) {
  *out = nullptr;
  return opau::api::guarded([&]() -> std::string {
    opau::Config config;
    std::string error = opau::find_config(basis, form, k, l, groups, &config);
    if (!error.empty()) return error;
    const opau::InstructionSet* set = opau::api::chosen_set(instruction_set, &error);
    if (set) *out = new opau_function{config, set};
    return error;
  });
}

void opau_function_destroy(opau_function* function) { delete function; }

const char* opau_forward(const opau_function* function, int dtype, const void* numerator, int64_t numerator_rows, const void* denominator,
                         int64_t denominator_rows, const void* x, void* y, int64_t outer, int64_t channels, int64_t inner,
                         opau_parallel_for parallel) {
  const opau::Extent extent{outer, channels, inner};
  const Given given{numerator, numerator_rows, denominator, denominator_rows, nullptr, nullptr};
  return checked(function, dtype, given, extent, x, y, [&](const auto& c) {
    return opau::train_forward(function->config, opau::Dtype(dtype), c, *function->set, x, y, extent, Threads(parallel));
  });
}

const char* opau_backward(const opau_function* function, int dtype, const void* numerator, int64_t numerator_rows,
                          const void* denominator, int64_t denominator_rows, const void* x, const void* g, void* dx,
                          void* numerator_gradient, void* denominator_gradient, int64_t outer, int64_t channels, int64_t inner,
                          opau_parallel_for parallel) {
  const opau::Extent extent{outer, channels, inner};
  const Given given{numerator, numerator_rows, denominator, denominator_rows, nullptr, nullptr};
  if (const char* error = opau::api::one_gradient(function, numerator_gradient, denominator_gradient)) return error;
  return checked(function, dtype, given, extent, x, g, [&](const auto& c) {
    using T = std::remove_cv_t<std::remove_pointer_t<decltype(c.numerator)>>;
    const opau::Gradients<T> to{dx, static_cast<T*>(numerator_gradient), static_cast<T*>(denominator_gradient)};
    return opau::train_backward(function->config, opau::Dtype(dtype), c, *function->set, x, g, to, extent, Threads(parallel));
  });
}

}  // extern "C"
