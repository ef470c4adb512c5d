// Portable kernels: any processor, one element at a time. Without FMA hardware std::fma is slow, and still exact.
#define OPAU_TARGET baseline
#define OPAU_UNROLL 1
#include "cpu/loops.hpp"

namespace opau {
#if defined(__x86_64__) || defined(_M_X64)
extern const InstructionSet kScalarFma;
static constexpr const InstructionSet* kAgain = &kScalarFma;
#else
static constexpr const InstructionSet* kAgain = nullptr;  // fused operations are always there
#endif
extern const InstructionSet kScalar;
const InstructionSet kScalar =
    baseline::instruction_set<baseline::ScalarOps<float>, baseline::ScalarOps<double>>("scalar", [] { return true; }, kAgain);
}  // namespace opau
