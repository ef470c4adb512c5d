// Gradient kernels, compiled as avx512.cpp.
#define OPAU_TARGET avx512
#include "opau/value_avx512.hpp"
#include "cpu/gradient_loops.hpp"

namespace opau {
extern const GradientKernels kAvx512Gradients;
const GradientKernels kAvx512Gradients = avx512::gradient_kernels<avx512::FloatOps, avx512::DoubleOps>();
}  // namespace opau
