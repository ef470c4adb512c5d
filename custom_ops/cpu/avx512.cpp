// Compiled with -mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma -mf16c; runs only where available() says so.
#define OPAU_TARGET avx512
#include "opau/value_avx512.hpp"
#include "cpu/loops.hpp"

namespace opau {
static bool available() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}
extern const InstructionSet kAvx512;
const InstructionSet kAvx512 = avx512::instruction_set<avx512::FloatOps, avx512::DoubleOps>("avx512", available);
}  // namespace opau
