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

// Of each input: P / Q; the condition number; in units of the unit roundoff of the arithmetic, a first-order bound of an evaluation's
// absolute error and the relative one of Q; what scaled arithmetic beyond X0 may lose besides, in smallest numbers; whether Q is at its
// minimum. As opau_onnx/core/oracle.py, where they are explained.
struct Values {
  double value[kBlock], condition[kBlock], bound[kBlock], bottom[kBlock], underflow[kBlock];
  bool clamped[kBlock];
};

// n <= kBlock inputs; infinities are taken as +-2**600, where the value is the limit to more digits than float64 has.
void evaluate(const Function&, const double* x, int n, Values* out);

}  // namespace opau::oracle
