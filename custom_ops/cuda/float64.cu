#define OPAU_TARGET cuda
#include "cuda/launch.cuh"

namespace opau {
std::unique_ptr<CudaActivation> cuda_float64(const Plan& plan, const Coefficients<double>& c) { return cuda::launcher<Dtype::float64>(plan, c); }
std::unique_ptr<CudaActivation> cuda_float64(const Plan& plan, const void* rows, int64_t count) {
  return cuda::launcher<Dtype::float64>(plan, rows, count);
}
}  // namespace opau
