#define OPAU_TARGET cuda
#include "cuda/launch.cuh"

namespace opau {
std::unique_ptr<CudaActivation> cuda_float16(const Plan& plan, const Coefficients<float>& c) { return cuda::launcher<Dtype::float16>(plan, c); }
std::unique_ptr<CudaActivation> cuda_float16(const Plan& plan, const void* rows, int64_t count) {
  return cuda::launcher<Dtype::float16>(plan, rows, count);
}
}  // namespace opau
