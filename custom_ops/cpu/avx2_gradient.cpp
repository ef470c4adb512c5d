// Gradient kernels, compiled as avx2.cpp.
#define OPAU_TARGET avx2
#include "opau/value_avx2.hpp"
#include "cpu/gradient_loops.hpp"

namespace opau {
extern const GradientKernels kAvx2Gradients;
const GradientKernels kAvx2Gradients = avx2::gradient_kernels<avx2::FloatOps, avx2::DoubleOps>();
}  // namespace opau
