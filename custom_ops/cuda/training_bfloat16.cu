#define OPAU_TARGET cuda
#include "cuda/train.cuh"

namespace opau {
std::unique_ptr<CudaTraining> cuda_training_bfloat16(const Plan& plan) { return cuda::trainer<Dtype::bfloat16>(plan); }
}  // namespace opau
