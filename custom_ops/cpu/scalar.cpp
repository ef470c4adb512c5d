// Portable kernels: any processor, one element at a time. Without FMA hardware std::fma is slow, and still exact.
#define OPAU_TARGET baseline
#define OPAU_UNROLL 1
#include "cpu/loops.hpp"

namespace opau {
extern const InstructionSet kScalar;
const InstructionSet kScalar =
    baseline::instruction_set<baseline::ScalarOps<float>, baseline::ScalarOps<double>>("scalar", [] { return true; });
}  // namespace opau
