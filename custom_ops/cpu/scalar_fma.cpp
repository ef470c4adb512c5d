// The portable kernels once more, compiled with -mfma: without it each fused operation is a call of the C library. Same bits.
#define OPAU_TARGET scalar_fma
#define OPAU_UNROLL 1
#include "cpu/loops.hpp"

namespace opau {
static bool available() { return __builtin_cpu_supports("fma"); }
extern const InstructionSet kScalarFma;
const InstructionSet kScalarFma =
    scalar_fma::instruction_set<scalar_fma::ScalarOps<float>, scalar_fma::ScalarOps<double>>("scalar_fma", available);
}  // namespace opau
