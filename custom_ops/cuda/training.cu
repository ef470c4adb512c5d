#include "cuda/cuda_training.hpp"

namespace opau {

using Trained = std::unique_ptr<CudaTraining>;
Trained cuda_training_float32(const Plan&);
Trained cuda_training_float64(const Plan&);
Trained cuda_training_float16(const Plan&);
Trained cuda_training_bfloat16(const Plan&);

Trained CudaTraining::make(const Config& config, Dtype dtype) {
  const Plan plan = make_plan(config);
  switch (dtype) {
    case Dtype::float32:
      return cuda_training_float32(plan);
    case Dtype::float64:
      return cuda_training_float64(plan);
    case Dtype::float16:
      return cuda_training_float16(plan);
    case Dtype::bfloat16:
      return cuda_training_bfloat16(plan);
  }
  return nullptr;
}

}  // namespace opau
