// The CUDA kernels through the plain C interface; a library without them says so.
#include "opau/cuda_c_api.h"

#include "api/guard.hpp"

#if OPAU_WITH_CUDA
#include "cuda/cuda_activation.hpp"

struct opau_cuda_activation {
  std::unique_ptr<opau::CudaActivation> activation;
  int64_t groups;
};

namespace {

std::string failed(const char* what, int error) {
  return error ? std::string(what) + ": " + opau::cuda_error_text(error) : "";
}

}  // namespace
#else
struct opau_cuda_activation {};
#endif

namespace {

[[maybe_unused]] constexpr char kNoCuda[] = "the library was built without CUDA kernels; build it with nvcc (preset cuda)";

}  // namespace

extern "C" {

#if OPAU_WITH_CUDA

int opau_cuda_built(void) { return 1; }

const char* opau_cuda_create(const char* basis, const char* form, int64_t k, int64_t l, int64_t groups, int dtype,
                             const void* numerator, int64_t numerator_rows, const void* denominator, int64_t denominator_rows,
                             const void* scale, const void* shift, opau_cuda_activation** out) {
  *out = nullptr;
  return opau::api::guarded([&]() -> std::string {
    opau::Config config;
    std::string error = opau::find_config(basis, form, k, l, groups, &config);
    if (!error.empty()) return error;
    const opau::api::Given given{numerator, numerator_rows, denominator, denominator_rows, scale, shift};
    return opau::api::with_type(config, dtype, given, [&](const auto& coefficients) {
      auto activation = opau::CudaActivation::make(config, opau::Dtype(dtype), coefficients, &error);
      if (!activation) return error;
      if (error = failed("no CUDA kernel can be loaded", activation->load()); error.empty()) {
        *out = new opau_cuda_activation{std::move(activation), groups};
      }
      return error;
    });
  });
}

void opau_cuda_destroy(opau_cuda_activation* activation) { delete activation; }

int64_t opau_cuda_device_bytes(const opau_cuda_activation* activation) {
  return int64_t(activation->activation->device_bytes());
}

const char* opau_cuda_upload(opau_cuda_activation* activation, void* memory) {
  return opau::api::guarded(
      [&] { return failed("the coefficients could not be copied to the device", activation->activation->upload(memory)); });
}

const char* opau_cuda_run(const opau_cuda_activation* activation, const void* x, void* y, int64_t outer, int64_t channels,
                          int64_t inner, void* stream) {
  return opau::api::guarded([&]() -> std::string {
    const opau::Extent extent{outer, channels, inner};
    if (auto error = opau::api::extent_error(extent, activation->groups); !error.empty()) return error;
    return failed("the CUDA launch failed", activation->activation->run(x, y, extent, stream));
  });
}

#else

int opau_cuda_built(void) { return 0; }

const char* opau_cuda_create(const char*, const char*, int64_t, int64_t, int64_t, int, const void*, int64_t, const void*, int64_t,
                             const void*, const void*, opau_cuda_activation** out) {
  *out = nullptr;
  return kNoCuda;
}

void opau_cuda_destroy(opau_cuda_activation*) {}
int64_t opau_cuda_device_bytes(const opau_cuda_activation*) { return 0; }
const char* opau_cuda_upload(opau_cuda_activation*, void*) { return kNoCuda; }

const char* opau_cuda_run(const opau_cuda_activation*, const void*, void*, int64_t, int64_t, int64_t, void*) { return kNoCuda; }

#endif

}  // extern "C"
