// The gradient of sum(g * y), once, for one value of type Ops::V, beside the value in evaluate.hpp (arXiv 2106.09693; method.md).
// With h = g / Q and w = -h y side:  dx = h (P' - y side S'),  by c_i the sum of h f_i,  by the weight of d_j that of w row(f_j).
//
// Contract
//   arithmetic  as in evaluate.hpp: every Ops gives the same bits.
//   range       |x| <= limit: `gradient`; beyond: `far_gradient`, one value at a time in double. NaN gives NaN; +-inf gives NaN.
//   sums        by the monic rows g_n, of which f_n is a multiple: `Sums` brings them back.
//   operations  at degrees (5, 4) 11 of them are the sums' additions. One division a value.
//               -y side first: where Q stands at its minimum side is 0, and h y may be infinite.
//               The division 1 / Q is shared by g / Q and P / Q, so these carry one rounding more than the forward pass's y.
#pragma once
#include "opau/gradient_kernels.hpp"
#include "opau/value_scalar.hpp"

namespace opau::OPAU_TARGET {

// -1, 0 or 1; NaN stays NaN. The value types that have one instruction for it bring their own.
template <class O>
OPAU_INLINE auto sign_of(V<O> a, int) -> decltype(O::sign(a)) {
  return O::sign(a);
}
template <class O>
OPAU_INLINE V<O> sign_of(V<O> a, long) {
  const V<O> zero = O::set(0);
  return O::select(O::less(zero, a), O::set(1), O::select(O::less(a, zero), O::set(-1), a));
}

// Derivative of a term by its row and of Q by the sum of its terms: opau_onnx/core/denominators.py.
template <class O, Mode mode>
OPAU_INLINE V<O> term_slope(V<O> row) {
  if constexpr (mode == Mode::terms) return sign_of<O>(row, 0);
  return O::set(1);
}

template <class O, Mode mode>
OPAU_INLINE V<O> finish_slope(V<O> sum, V<O> minimum) {
  if constexpr (mode == Mode::sum) return sign_of<O>(sum, 0);
  if constexpr (mode == Mode::none) return O::select(O::less(minimum, sum), O::set(1), O::set(0));
  return O::set(1);
}

// Whether Q has a coefficient of f_0 in some form of this mode.
constexpr bool has_zeroth(Mode mode) { return mode != Mode::terms; }

// slope * value, without the multiplication where the slope is 1.
template <class O, Mode mode, class C>
OPAU_INLINE V<O> pulled(const C& weight, V<O> row) {
  if constexpr (mode == Mode::terms) return O::mul(O::set(weight), term_slope<O, mode>(row));
  return O::set(weight);
}

// The sums' addition, or nothing where they are not wanted.
template <class O, bool wanted>
struct Adder {
  V<O>* sums;
  OPAU_INLINE void add(int i, V<O> a) const {
    if constexpr (wanted) sums[i] = O::add(sums[i], a);
  }
  OPAU_INLINE void add(int i, V<O> a, V<O> b) const {
    if constexpr (wanted) sums[i] = O::fma(a, b, sums[i]);
  }
};

// Sums of h, h x, h g_2, h x (g_3 / x), h g_4, h x g_4; g_5 = x g_4 - gamma g_3 is put together from them at the end.
template <class O, Kind kind, Mode mode, bool wanted, class R>
OPAU_INLINE V<O> closed_gradient(const Constants<typename O::T>& k, const R& row, V<O> x, V<O> g, V<O>* sums) {
  const V<O> g2 = centred<O>(k, 2, x), g3 = centred<O>(k, 3, x);
  const V<O> root = kind == Kind::hermite ? g3 : centred<O>(k, 4, x);
  const V<O> g4 = O::fma(root, root, O::set(k.minus_rest));
  const V<O> top = horner<O, kUnrolledK>(row.p, x), rise = horner<O, kUnrolledK - 1>(row.slope, x);
  const V<O> sum = closed_sum<O, kind, mode>(k, row, x);
  const V<O> inverse = O::div(O::set(1), finish<O, mode>(k, sum));
  // S' = r_1' d_1 + r_3' 3 d_3 (x**2 + third) + x (r_2' 2 d_2 + r_4' 4 d_4 root)
  const V<O> g3_slope = O::fma(x, x, O::set(row.third));
  const V<O> even = O::fma(pulled<O, mode>(row.pull[3], g4), root, pulled<O, mode>(row.pull[1], g2));
  const V<O> odd = O::fma(pulled<O, mode>(row.pull[2], O::mul(x, g3)), g3_slope, pulled<O, mode>(row.pull[0], x));
  const V<O> side = finish_slope<O, mode>(sum, O::set(k.minimum));
  const V<O> fall = O::mul(O::fma(x, even, odd), side);
  const V<O> h = O::mul(g, inverse), minus_y = O::mul(top, O::mul(inverse, O::set(-1)));
  const V<O> w = O::mul(h, O::mul(minus_y, side));
  const Adder<O, wanted> to{sums};
  const V<O> hx = O::mul(h, x), wx = O::mul(w, term<O, mode>(x));
  to.add(0, h);
  to.add(1, hx);
  to.add(2, h, g2);
  to.add(3, hx, g3);
  to.add(4, h, g4);
  to.add(5, hx, g4);
  if constexpr (has_zeroth(mode)) to.add(6, w);
  to.add(7, wx);
  to.add(8, w, term<O, mode>(g2));
  to.add(9, wx, term<O, mode>(g3));
  to.add(10, w, term<O, mode>(g4));
  return O::mul(h, O::fma(minus_y, fall, rise));
}

template <class O, Mode mode, bool wanted, class R>
OPAU_INLINE V<O> general_gradient(const Constants<typename O::T>& k, const R& row, int degree, V<O> x, V<O> g, V<O>* sums) {
  V<O> rows[kRowSize];
  V<O> top = O::fma(x, O::set(0), O::set(row.c[0])), sum = O::set(row.d[0]), rise = O::mul(x, O::set(0)), fall = rise;
  V<O> now = O::set(1), before = O::set(0), slope_now = O::set(0), slope_before = O::set(0);
  rows[0] = now;
  for (int n = 1; n <= degree; ++n) {
    const V<O> slope = O::add(x, O::set(k.shift[n - 1])), gamma = O::set(k.minus_gamma[n - 1]);
    const V<O> next = O::fma(slope, now, O::mul(gamma, before));
    const V<O> slope_next = O::fma(slope, slope_now, O::fma(gamma, slope_before, now));
    before = now, slope_before = slope_now;
    now = next, slope_now = slope_next;
    rows[n] = now;
    top = O::fma(O::set(row.c[n]), now, top);
    rise = O::fma(O::set(row.c[n]), slope_now, rise);
    sum = O::fma(O::set(row.d[n]), term<O, mode>(now), sum);
    fall = O::fma(pulled<O, mode>(row.d[n], now), slope_now, fall);
  }
  const V<O> inverse = O::div(O::set(1), finish<O, mode>(k, sum));
  const V<O> side = finish_slope<O, mode>(sum, O::set(k.minimum));
  const V<O> h = O::mul(g, inverse), minus_y = O::mul(O::mul(top, inverse), O::set(-1)), w = O::mul(h, O::mul(minus_y, side));
  if constexpr (wanted) {
    const Adder<O, wanted> to{sums};
    for (int n = 0; n <= degree; ++n) {
      to.add(n, h, rows[n]);
      to.add(kRowSize + n, w, term<O, mode>(rows[n]));
    }
  }
  return O::mul(h, O::fma(minus_y, O::mul(fall, side), rise));
}

// |x| <= limit, or NaN. Returns dx; adds to sums: kClosedSums of them, or kSums in Kind::general.
template <class O, Kind kind, Mode mode, bool wanted, class R>
OPAU_INLINE V<O> gradient(const Constants<typename O::T>& k, const R& row, int degree, V<O> x, V<O> g, V<O>* sums) {
  if constexpr (kind == Kind::general) {
    return general_gradient<O, mode, wanted>(k, row, degree, x, g, sums);
  } else {
    return closed_gradient<O, kind, mode, wanted>(k, row, x, g, sums);
  }
}

// value s**power with s = 1 / r, one step at a time: no power stands alone where it could overflow before it matters.
OPAU_INLINE double times_power(double value, double s, double r, int power) {
  for (; power > 0; --power) value *= s;
  for (; power < 0; ++power) value *= r;
  return value;
}

// limit < |x|. P = s**p P_n and Q = s**q Q_n, p and q the largest degrees in use of each: neither P_n nor Q_n is near zero for want
// of scaling. The rows are g_n = s**n F_n, their derivatives s**(n - 1) G_n. Adds to sums, kSums of them, by degree.
template <Mode mode, class T>
OPAU_FUNCTION double far_gradient(const Constants<T>& k, const FullRow<T>& row, int degree, double x, double g, double* sums) {
  using O = ScalarOps<double>;
  const double limit = k.limit, size = absolute(x), s = size / limit, r = limit / size, u = x < 0 ? -limit : limit;
  int p = 0, q = 0;
  for (int n = 1; n <= degree; ++n) {
    if (row.c[n] != 0) p = n;
    if (row.d[n] != 0) q = n;
  }
  double rows[kRowSize], slopes[kRowSize], weights[kRowSize];
  rows[0] = weights[0] = 1, slopes[0] = 0;
  for (int n = 1; n <= degree; ++n) {
    const double step = fused(double(k.shift[n - 1]), r, u), gamma = double(k.minus_gamma[n - 1]) * (r * r);
    rows[n] = fused(step, rows[n - 1], n > 1 ? gamma * rows[n - 2] : 0.0);
    slopes[n] = fused(step, slopes[n - 1], n > 1 ? fused(gamma, slopes[n - 2], rows[n - 1]) : 1.0);
    weights[n] = weights[n - 1] * r;
  }
  double top = 0, rise = 0, sum = 0, fall = 0;
  for (int n = 0; n <= p; ++n) {
    top = fused(row.c[n] * weights[p - n], rows[n], top);
    rise = fused(row.c[n] * weights[p - n], slopes[n], rise);
  }
  for (int n = 0; n <= q; ++n) {
    sum = fused(row.d[n] * weights[q - n], term<O, mode>(rows[n]), sum);
    fall = fused(row.d[n] * weights[q - n] * term_slope<O, mode>(rows[n]), slopes[n], fall);
  }
  const double minimum = mode == Mode::none ? double(k.minimum) * weights[q] : 0.0;
  const double bottom = finish<O, mode>(sum, double(k.offset) * weights[q], minimum);
  const double side = finish_slope<O, mode>(sum, minimum), y = top / bottom, h = g / bottom;
  for (int n = 0; n <= degree; ++n) {
    sums[n] += times_power(h * rows[n], s, r, n - q);
    sums[kRowSize + n] -= times_power(h * (y * side * term<O, mode>(rows[n])), s, r, n + p - 2 * q);
  }
  return times_power(h * (rise - y * (fall * side)), s, r, p - q - 1);
}

// limit < |x|, infinity included: what `far_gradient` gives, or NaN everywhere.
template <Mode mode, class T>
OPAU_FUNCTION double far_element(const Constants<T>& k, const FullRow<T>& row, int degree, T x, T g, double* sums) {
  const double value = double(x) - double(x);
  if (value == 0) return far_gradient<mode>(k, row, degree, double(x), double(g), sums);
  for (int n = 0; n <= degree; ++n) sums[n] += value, sums[kRowSize + n] += value;
  return value;
}

// FullRow's part filled, the rest: derivatives in monomials and by the closed forms. Powers go by them too, with centres of 0.
template <class T>
OPAU_INLINE void complete(const Constants<T>& k, FullGradientRow<T>* row) {
  for (int n = 0; n < kUnrolledK; ++n) row->slope[n] = T(n + 1) * row->p[n + 1];
  for (int n = 0; n < kUnrolledL; ++n) row->pull[n] = T(n + 1) * row->d[n + 1];
  row->third = k.minus_centre[3] / T(3);
}

// From what kernels sum up, total(i), to the sums by degree: add(n, value), and add(kRowSize + n, value) for the denominator.
template <Kind kind, class T, class Total, class Add>
OPAU_INLINE void by_degree(const Constants<T>& k, int degree, const Total& total, const Add& add) {
  if constexpr (kind == Kind::general) {
    for (int n = 0; n <= degree; ++n) add(n, total(n)), add(kRowSize + n, total(kRowSize + n));
  } else {
    for (int n = 0; n < kUnrolledK; ++n) add(n, total(n));
    add(kUnrolledK, total(kUnrolledK) + double(k.minus_gamma[kUnrolledK - 1]) * total(kUnrolledK - 2));
    for (int n = 0; n <= kUnrolledL; ++n) add(kRowSize + n, total(kUnrolledK + 1 + n));
  }
}

}  // namespace opau::OPAU_TARGET
