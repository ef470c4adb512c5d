// The formula, once: y = P(x) / Q(x) for one value of type Ops::V, which may be a scalar, a vector or a CUDA thread's value.
//
// Contract
//   arithmetic  each operation below is one IEEE operation (fma, mul, add, div, compare, select) in T, in this order: every
//               Ops gives the same bits. Compile without contraction and without fast-math.
//   range       |x| <= limit: `ordinary`; beyond, and for +-inf: `scaled`. NaN gives NaN in both.
//   operations  per element at degrees (5, 4), without load and store, `abs` and compare counted:
//               power, terms 14 (10 fma/mul, 1 div); symmetric, terms 21 (11 fma, 1 mul, 4 add, 1 div); general, per degree 5.
//   error       docs/kernels.md; measured for all 2^32 inputs by opau-certify.
//
// Everything lives in a namespace of the target, since translation units compiled for different instruction sets include it.
#pragma once
#include "opau/plan.hpp"

#ifndef OPAU_TARGET
#define OPAU_TARGET baseline
#endif

#ifdef __CUDACC__
#define OPAU_INLINE __host__ __device__ __forceinline__
#elif defined(_MSC_VER)
#define OPAU_INLINE __forceinline
#else
#define OPAU_INLINE inline __attribute__((always_inline))
#endif

namespace opau::OPAU_TARGET {

template <class O>
using V = typename O::V;

// sum_{i = first, first + 2, .. <= last} c_i t**((i - first) / 2), by Horner's rule.
// Coefficients are numbers, or vectors where each lane has its own; Ops::set takes both.
template <class O, int first, int last, class C>
OPAU_INLINE V<O> horner(const C* c, V<O> t) {
  if constexpr (first > last) {
    return O::set(0);
  } else {
    constexpr int highest = last - (last - first) % 2;
    V<O> total = O::set(c[highest]);
    for (int i = highest - 2; i >= first; i -= 2) total = O::fma(total, t, O::set(c[i]));
    return total;
  }
}

template <class O, int degree, class C>
OPAU_INLINE V<O> power_sum(const C* c, V<O> x, V<O> t) {
  return O::fma(x, horner<O, 1, degree>(c, t), horner<O, 0, degree>(c, t));
}

// h_0 .. h_top of tables::Basis::beta; h_0 = h_1 = 1 are not stored.
template <class O, int top>
OPAU_INLINE void halves(const Constants<typename O::T>& k, V<O> t, V<O>* h) {
  for (int n = 2; n <= top; ++n) {
    const V<O> factor = O::add(t, O::set(k.minus_beta[n]));
    h[n] = n < 4 ? factor : O::fma(factor, h[n - 2], n < 6 ? O::set(k.minus_delta[n]) : O::mul(O::set(k.minus_delta[n]), h[n - 4]));
  }
}

// sum_i c_i x**(i mod 2) h_i. Even and odd half are summed apart: two short chains, and x is multiplied once.
template <class O, int degree, class C>
OPAU_INLINE V<O> halves_sum(const C* c, V<O> x, const V<O>* h) {
  V<O> even = O::set(c[0]), odd = O::set(c[1]);
  for (int i = 2; i <= degree; i += 2) even = O::fma(O::set(c[i]), h[i], even);
  for (int i = 3; i <= degree; i += 2) odd = O::fma(O::set(c[i]), h[i], odd);
  return O::fma(x, odd, even);
}

// Q from the sum of the denominator's terms.
template <class O, Mode mode>
OPAU_INLINE V<O> finish(V<O> sum, V<O> offset, V<O> minimum) {
  if constexpr (mode == Mode::sum) return O::add(offset, O::abs(sum));
  if constexpr (mode == Mode::none) return O::select(O::less(sum, minimum), minimum, sum);
  return sum;
}

template <class O, Mode mode>
OPAU_INLINE V<O> finish(const Constants<typename O::T>& k, V<O> sum) {
  return finish<O, mode>(sum, O::set(k.offset), O::set(k.minimum));
}

template <class O, Mode mode, class R>
OPAU_INLINE V<O> ordinary_power(const Constants<typename O::T>& k, const R& row, V<O> x) {
  const V<O> t = O::mul(x, x);
  const V<O> top = power_sum<O, kUnrolledK>(row.c, x, t);
  const V<O> sum = power_sum<O, kUnrolledL>(row.d, mode == Mode::terms ? O::abs(x) : x, t);
  return O::div(top, finish<O, mode>(k, sum));
}

template <class O, Mode mode, class R>
OPAU_INLINE V<O> ordinary_symmetric(const Constants<typename O::T>& k, const R& row, V<O> x) {
  constexpr int degree = kUnrolledK > kUnrolledL ? kUnrolledK : kUnrolledL;
  V<O> h[degree + 1];
  halves<O, degree>(k, O::mul(x, x), h);
  const V<O> top = halves_sum<O, kUnrolledK>(row.c, x, h);
  if constexpr (mode == Mode::terms) {
    for (int n = 2; n <= kUnrolledL; ++n) h[n] = O::abs(h[n]);
    x = O::abs(x);
  }
  return O::div(top, finish<O, mode>(k, halves_sum<O, kUnrolledL>(row.d, x, h)));
}

template <class O, Mode mode, class R>
OPAU_INLINE V<O> ordinary_general(const Constants<typename O::T>& k, const R& row, int degree, V<O> x) {
  V<O> top = O::set(row.c[0]), sum = O::set(row.d[0]);
  V<O> before = O::set(0), now = O::set(1);
  for (int n = 1; n <= degree; ++n) {
    const V<O> slope = O::add(x, O::set(k.shift[n - 1]));
    const V<O> next = O::fma(slope, now, O::mul(O::set(k.minus_gamma[n - 1]), before));
    before = now;
    now = next;
    top = O::fma(O::set(row.c[n]), now, top);
    sum = O::fma(O::set(row.d[n]), mode == Mode::terms ? O::abs(now) : now, sum);
  }
  return O::div(top, finish<O, mode>(k, sum));
}

// |x| <= limit, or NaN.
template <class O, Kind kind, Mode mode, class R>
OPAU_INLINE V<O> ordinary(const Constants<typename O::T>& k, const R& row, int degree, V<O> x) {
  if constexpr (kind == Kind::power) return ordinary_power<O, mode>(k, row, x);
  if constexpr (kind == Kind::symmetric) return ordinary_symmetric<O, mode>(k, row, x);
  return ordinary_general<O, mode>(k, row, degree, x);
}

// Right for every x, wanted beyond the limit: P and Q divided by s**M with s = |x| / limit, M = row.top.
// With r = 1 / s and u = x r the rows g_n r**n follow g = (u + shift r) g' - gamma r**2 g''; a sum of c_n g_n r**(M - n) is built
// by multiplying it with r at each step, so no power of r stands alone where it could underflow before it matters.
template <class O, Mode mode, class R>
OPAU_INLINE V<O> scaled(const Constants<typename O::T>& k, const R& row, V<O> x) {
  const V<O> size = O::abs(x), limit = O::set(k.limit), zero = O::set(0), one = O::set(1);
  const auto beyond = O::less(limit, size);
  const V<O> r = O::select(beyond, O::div(limit, size), one);
  const V<O> u = O::select(beyond, O::select(O::less(x, zero), O::set(-k.limit), limit), x);
  const V<O> square = O::mul(r, r);
  V<O> top = O::fma(u, zero, O::set(row.c[0]));  // NaN stays NaN also where no other coefficient is in use
  V<O> sum = O::set(row.d[0]), weight = one, before = zero, now = one;
  for (int n = 1; n <= row.top; ++n) {
    const V<O> slope = O::fma(O::set(k.shift[n - 1]), r, u);
    const V<O> next = O::fma(slope, now, O::mul(O::mul(O::set(k.minus_gamma[n - 1]), square), before));
    before = now;
    now = next;
    top = O::fma(top, r, O::mul(O::set(row.c[n]), now));
    sum = O::fma(sum, r, O::mul(O::set(row.d[n]), mode == Mode::terms ? O::abs(now) : now));
    weight = O::mul(weight, r);
  }
  const V<O> bottom = finish<O, mode>(sum, O::mul(O::set(k.offset), weight), mode == Mode::none ? O::mul(O::set(k.minimum), weight) : weight);
  return O::div(top, bottom);
}

}  // namespace opau::OPAU_TARGET
