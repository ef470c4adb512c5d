// The oracle in C++: value and condition number from the definition's recurrence, with nothing of the kernels.
//
// Degrees up to 7 fit float64's exponents for every float32 input (2**(128 * 7) < 2**1024) and are computed in it; higher ones in
// long double, which must have a wider exponent (x87, or quadruple precision).
#pragma once
#include <cstdint>

namespace opau::oracle {

inline constexpr int kBlock = 512;

struct Function {
  int basis, form;
  int k, l;
  const double* numerator;    // k + 1
  const double* denominator;  // l + 1 - first
};

// n <= kBlock inputs; infinities are taken as +-2**600, where the value is the limit to more digits than float64 has.
void evaluate(const Function&, const double* x, int n, double* value, double* condition);

}  // namespace opau::oracle
