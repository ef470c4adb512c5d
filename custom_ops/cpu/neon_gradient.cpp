// Gradient kernels, compiled as neon.cpp.
#define OPAU_TARGET neon
#include "opau/value_neon.hpp"
#include "cpu/gradient_loops.hpp"

namespace opau {
extern const GradientKernels kNeonGradients;
const GradientKernels kNeonGradients = neon::gradient_kernels<neon::FloatOps, neon::DoubleOps>();
}  // namespace opau
