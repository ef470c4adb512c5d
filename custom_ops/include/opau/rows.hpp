// One group's row from its coefficients, and their gradients' last step, in plain arithmetic: on the host, and in a CUDA thread where
// coefficients live on the device. The host's part, which reads the tables, is in prepare.hpp.
#pragma once
#include "opau/evaluate.hpp"

namespace opau::OPAU_TARGET {

OPAU_INLINE double size_of(double v) { return v < 0 ? -v : v; }

// c and d: one group's coefficients. Leaves scale and shift, which are not the function's.
template <class T>
OPAU_INLINE void fill_row(const Definition& def, const T* c, const T* d, FullRow<T>* row) {
  *row = FullRow<T>{};
  int top = 0;
  for (int i = 0; i < def.c_size; ++i) {
    row->c[i] = T(double(c[i]) * def.leading[i] * def.factor);
    if (c[i] != 0 && i > top) top = i;
  }
  for (int j = 0; j < def.d_size; ++j) {
    const int n = j + def.first;
    const double value = double(d[j]) * def.leading[n] * def.factor;
    row->d[n] = T(def.mode == Mode::terms ? size_of(value) : value);
    if (d[j] != 0 && n > top) top = n;
  }
  row->top = T(top);
  row->scale = T(1);
  row->shift = T(-0.0);
  for (int n = 0; n <= kUnrolledK && def.c_size <= kUnrolledK + 1; ++n) {
    double total = 0;
    for (int i = n; i < def.c_size; ++i) total += double(c[i]) * def.monomials[i][n];
    row->p[n] = T(total * def.factor);
  }
  if (def.mode != Mode::sum) row->d[0] = T(double(row->d[0]) + def.offset * def.factor);
}

// Derivative by d of the weight that the monic row has: d leading, or its absolute value. 0 at 0; NaN for NaN.
template <class T>
OPAU_INLINE double weight_slope(const Definition& def, T d, int n) {
  const double leading = def.leading[n];
  if (def.mode != Mode::terms) return leading;
  return d > 0 ? size_of(leading) : d < 0 ? -size_of(leading) : double(d);
}

}  // namespace opau::OPAU_TARGET
