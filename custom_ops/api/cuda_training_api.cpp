// Training on CUDA through the plain C interface; a library without CUDA kernels says so.
#include "api/function.hpp"
#include "opau/cuda_training_api.h"

#if OPAU_WITH_CUDA
#include "cuda/cuda_activation.hpp"
#include "cuda/cuda_training.hpp"

namespace {

using opau::api::checked;
using opau::api::Given;

std::string launched(int error) { return error ? std::string("the CUDA launch failed: ") + opau::cuda_error_text(error) : ""; }

// As many rows as make_row would be asked for; the coefficients' pointers are the device's.
opau::CudaCoefficients there(const Given& given) {
  return {given.numerator, given.numerator_rows, given.denominator, given.denominator_rows};
}

}  // namespace

extern "C" {

int64_t opau_cuda_workspace(const opau_function* function, int dtype, int64_t rows, int64_t outer, int64_t channels, int64_t inner, int sums) {
  const auto training = opau::CudaTraining::make(function->config, opau::Dtype(dtype));
  return training ? int64_t(training->workspace({outer, channels, inner}, rows, sums != 0)) : -1;
}

const char* opau_cuda_forward(const opau_function* function, int dtype, const void* numerator, int64_t numerator_rows,
                              const void* denominator, int64_t denominator_rows, const void* x, void* y, int64_t outer, int64_t channels,
                              int64_t inner, void* workspace, void* stream) {
  const opau::Extent extent{outer, channels, inner};
  const Given given{numerator, numerator_rows, denominator, denominator_rows, nullptr, nullptr};
  return checked(function, dtype, given, extent, x, y, [&](const auto&) {
    return launched(opau::CudaTraining::make(function->config, opau::Dtype(dtype))->forward(there(given), x, y, extent, workspace, stream));
  });
}

const char* opau_cuda_backward(const opau_function* function, int dtype, const void* numerator, int64_t numerator_rows,
                               const void* denominator, int64_t denominator_rows, const void* x, const void* g, void* dx,
                               void* numerator_gradient, void* denominator_gradient, int64_t outer, int64_t channels, int64_t inner,
                               void* workspace, void* stream) {
  const opau::Extent extent{outer, channels, inner};
  const Given given{numerator, numerator_rows, denominator, denominator_rows, nullptr, nullptr};
  if (const char* error = opau::api::one_gradient(function, numerator_gradient, denominator_gradient)) return error;
  return checked(function, dtype, given, extent, x, g, [&](const auto&) {
    const opau::CudaGradients to{dx, numerator_gradient, denominator_gradient};
    return launched(opau::CudaTraining::make(function->config, opau::Dtype(dtype))->backward(there(given), x, g, to, extent, workspace, stream));
  });
}

}  // extern "C"
#else

namespace {

constexpr char kNoCuda[] = "the library was built without CUDA kernels; build it with nvcc (preset cuda)";

}  // namespace

extern "C" {

int64_t opau_cuda_workspace(const opau_function*, int, int64_t, int64_t, int64_t, int64_t, int) { return -1; }
const char* opau_cuda_forward(const opau_function*, int, const void*, int64_t, const void*, int64_t, const void*, void*, int64_t, int64_t,
                              int64_t, void*, void*) {
  return kNoCuda;
}
const char* opau_cuda_backward(const opau_function*, int, const void*, int64_t, const void*, int64_t, const void*, const void*, void*, void*,
                               void*, int64_t, int64_t, int64_t, void*, void*) {
  return kNoCuda;
}

}  // extern "C"
#endif
