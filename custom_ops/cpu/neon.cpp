// AArch64, where NEON and fused multiply-add are always there.
#define OPAU_TARGET neon
#include "opau/value_neon.hpp"
#include "cpu/loops.hpp"

namespace opau {
extern const InstructionSet kNeon;
const InstructionSet kNeon = neon::instruction_set<neon::FloatOps, neon::DoubleOps>("neon", [] { return true; });
}  // namespace opau
