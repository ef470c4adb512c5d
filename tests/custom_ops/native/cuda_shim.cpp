// The CUDA activation on the host, with a C interface for ctypes. Compiled with the .cu files, all under cuda_shim.hpp; or alone with
// OPAU_SUBSET, since sanitizers take minutes to compile all kernels: then every dtype has one kind, whatever is asked for.
#include <memory>
#include <string>

#include "api/function.hpp"

#ifdef OPAU_SUBSET
#define OPAU_TARGET cuda
#include "cuda/train.cuh"
namespace opau {
using Trained = std::unique_ptr<CudaTraining>;
Trained CudaTraining::make(const Config& config, Dtype dtype) {
  const Plan plan = make_plan(config);
  if (dtype == Dtype::float64) return std::make_unique<cuda::Trainer<Dtype::float64, Kind::general, Mode::terms>>(plan);
  if (dtype == Dtype::float16) return std::make_unique<cuda::Trainer<Dtype::float16, Kind::hermite, Mode::terms>>(plan);
  return std::make_unique<cuda::Trainer<Dtype::float32, Kind::hermite, Mode::terms>>(plan);
}
std::unique_ptr<CudaActivation> cuda_float32(const Plan& plan, const void* rows, int64_t count) {
  return std::make_unique<cuda::Launcher<Dtype::float32, Kind::hermite, Mode::terms>>(plan, rows, count);
}
std::unique_ptr<CudaActivation> cuda_float16(const Plan& plan, const void* rows, int64_t count) {
  return std::make_unique<cuda::Launcher<Dtype::float16, Kind::hermite, Mode::terms>>(plan, rows, count);
}
std::unique_ptr<CudaActivation> cuda_float64(const Plan& plan, const void* rows, int64_t count) {
  return std::make_unique<cuda::Launcher<Dtype::float64, Kind::general, Mode::terms>>(plan, rows, count);
}
std::unique_ptr<CudaActivation> cuda_bfloat16(const Plan&, const void*, int64_t) { return nullptr; }
using Made = std::unique_ptr<CudaActivation>;
template <>
Made CudaActivation::make(const Config& config, Dtype dtype, const Coefficients<float>& c, std::string*) {
  const Plan plan = make_plan(config);
  if (dtype == Dtype::float16) return std::make_unique<cuda::Launcher<Dtype::float16, Kind::hermite, Mode::terms>>(plan, c);
  return std::make_unique<cuda::Launcher<Dtype::float32, Kind::hermite, Mode::terms>>(plan, c);
}
template <>
Made CudaActivation::make(const Config& config, Dtype, const Coefficients<double>& c, std::string*) {
  return std::make_unique<cuda::Launcher<Dtype::float64, Kind::general, Mode::terms>>(make_plan(config), c);
}
}  // namespace opau
#else
#include "cuda/cuda_activation.hpp"
#endif

namespace opau {
const char* cuda_error_text(int) __attribute__((weak));
const char* cuda_error_text(int) { return "an error of the shim"; }
}  // namespace opau

extern "C" {

// For training_api.h's other functions, which api/cuda_training_api.cpp brings.
const char* opau_function_create(const char* basis, const char* form, int64_t k, int64_t l, int64_t groups, int, opau_function** out) {
  return opau::api::guarded([&]() -> std::string {
    opau::Config config;
    std::string error = opau::find_config(basis, form, k, l, groups, &config);
    if (error.empty()) *out = new opau_function{config, nullptr};
    return error;
  });
}
void opau_function_destroy(opau_function* function) { delete function; }

void shim_limits(int processors, unsigned largest_x, unsigned largest_y, int64_t piece_limit) {
  shim::processors = processors;
  shim::largest_x = largest_x;
  shim::largest_y = largest_y;
  shim::piece_limit = piece_limit;
}

// What the launch code asks of the runtime.
cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) { return *value = shim::processors, cudaSuccess; }
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) { return std::memcpy(to, from, bytes), cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
const char* cudaGetErrorString(cudaError_t) { return "an error of the shim"; }

struct Shim {
  std::unique_ptr<opau::CudaActivation> activation;
  std::unique_ptr<unsigned char[]> memory;
};

static std::string message;

const char* shim_create(const char* basis, const char* form, int64_t k, int64_t l, int64_t groups, int dtype, const void* numerator,
                        int64_t numerator_rows, const void* denominator, int64_t denominator_rows, const void* scale,
                        const void* shift, int upload, Shim** out) {
  opau::Config config;
  message = opau::find_config(basis, form, k, l, groups, &config);
  if (!message.empty()) return message.c_str();
  const auto made = [&](auto zero) {
    using T = decltype(zero);
    const opau::Coefficients<T> c{static_cast<const T*>(numerator), numerator_rows, static_cast<const T*>(denominator), denominator_rows,
                                  static_cast<const T*>(scale), static_cast<const T*>(shift), scale ? groups : 0};
    return opau::CudaActivation::make(config, opau::Dtype(dtype), c, &message);
  };
  auto shim = std::make_unique<Shim>();
  shim->activation = opau::Dtype(dtype) == opau::Dtype::float64 ? made(0.0) : made(0.0f);
  if (!shim->activation) return message.c_str();
  if (upload && shim->activation->device_bytes()) {
    shim->memory = std::make_unique<unsigned char[]>(shim->activation->device_bytes());
    shim->activation->upload(shim->memory.get());
  }
  *out = shim.release();
  return nullptr;
}

void shim_destroy(Shim* shim) { delete shim; }

// `writes`, where given, counts the writes of each element; y ends up with the last of them. Returns a cudaError_t.
int shim_run(const Shim* shim, const void* x, void* y, int64_t outer, int64_t channels, int64_t inner, int64_t element_size,
             int processors, unsigned largest_x, unsigned largest_y, int64_t piece_limit, int32_t* writes, int* launches) {
  shim::processors = processors;
  shim::largest_x = largest_x;
  shim::largest_y = largest_y;
  shim::piece_limit = piece_limit;
  shim::launches = 0;
  const opau::Extent extent{outer, channels, inner};
  std::vector<unsigned char> result(size_t(extent.count() * element_size));
  if (writes) {
    std::memset(y, shim::Watch::kSentinel, result.size());
    shim::watch = {static_cast<unsigned char*>(y), result.data(), extent.count(), element_size, writes};
  }
  const int error = shim->activation->run(x, y, extent, nullptr);
  shim::watch = {};
  if (writes) std::memcpy(y, result.data(), result.size());
  *launches = shim::launches;
  return error;
}
}
