#define OPAU_TARGET cuda
#include "cuda/train.cuh"

namespace opau {
std::unique_ptr<CudaTraining> cuda_training_float64(const Plan& plan) { return cuda::trainer<Dtype::float64>(plan); }
}  // namespace opau
