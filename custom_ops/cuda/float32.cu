#define OPAU_TARGET cuda
#include "cuda/launch.cuh"

namespace opau {
std::unique_ptr<CudaActivation> cuda_float32(const Plan& plan, const Coefficients<float>& c) { return cuda::launcher<Dtype::float32>(plan, c); }
std::unique_ptr<CudaActivation> cuda_float32(const Plan& plan, const void* rows, int64_t count) {
  return cuda::launcher<Dtype::float32>(plan, rows, count);
}
}  // namespace opau
