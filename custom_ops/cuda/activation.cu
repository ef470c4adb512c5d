#include <cuda_runtime.h>

#include "cuda/cuda_activation.hpp"

namespace opau {

using Made = std::unique_ptr<CudaActivation>;
Made cuda_float32(const Plan&, const Coefficients<float>&);
Made cuda_float16(const Plan&, const Coefficients<float>&);
Made cuda_bfloat16(const Plan&, const Coefficients<float>&);
Made cuda_float64(const Plan&, const Coefficients<double>&);

namespace {

template <class T>
std::string check(const Config& config, const Coefficients<T>& c) {
  if (config.block) return "attribute 'channel_block' belongs to files that were rewritten for one machine's CPU; this is the CUDA kernel";
  return check_coefficients(config, c);
}

}  // namespace

template <>
Made CudaActivation::make(const Config& config, Dtype dtype, const Coefficients<float>& c, std::string* error) {
  *error = check(config, c);
  if (!error->empty()) return nullptr;
  const Plan plan = make_plan(config);
  return dtype == Dtype::float16 ? cuda_float16(plan, c) : dtype == Dtype::bfloat16 ? cuda_bfloat16(plan, c) : cuda_float32(plan, c);
}

template <>
Made CudaActivation::make(const Config& config, Dtype, const Coefficients<double>& c, std::string* error) {
  *error = check(config, c);
  return error->empty() ? cuda_float64(make_plan(config), c) : nullptr;
}

const char* cuda_error_text(int error) { return cudaGetErrorString(cudaError_t(error)); }

}  // namespace opau
