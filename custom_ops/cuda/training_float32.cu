#define OPAU_TARGET cuda
#include "cuda/train.cuh"

namespace opau {
std::unique_ptr<CudaTraining> cuda_training_float32(const Plan& plan) { return cuda::trainer<Dtype::float32>(plan); }
}  // namespace opau
