// Gradient kernels, compiled as scalar.cpp.
#define OPAU_TARGET baseline
#include "cpu/gradient_loops.hpp"

namespace opau {
extern const GradientKernels kScalarGradients;
const GradientKernels kScalarGradients = baseline::gradient_kernels<baseline::ScalarOps<float>, baseline::ScalarOps<double>>();
}  // namespace opau
