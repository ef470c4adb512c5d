// Compiled with -mavx2 -mfma -mf16c; runs only where available() says so.
#define OPAU_TARGET avx2
#include "opau/value_avx2.hpp"
#include "cpu/loops.hpp"

namespace opau {
static bool available() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}
extern const InstructionSet kAvx2;
const InstructionSet kAvx2 = avx2::instruction_set<avx2::FloatOps, avx2::DoubleOps>("avx2", available);
}  // namespace opau
