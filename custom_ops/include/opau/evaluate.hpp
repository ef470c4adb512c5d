// The formula, once: y = P(x) / Q(x) for one value of type Ops::V, which may be a scalar, a vector or a CUDA thread's value.
//
// Contract
//   arithmetic  each operation below is one IEEE operation (fma, mul, add, div, compare, select) in T, in this order: every
//               Ops gives the same bits. Compile without contraction and without fast-math.
//   range       |x| <= limit: `ordinary`; beyond, and for +-inf: `scaled`. NaN gives NaN in both.
//   operations  per element at degrees (5, 4), abs_terms, with the range's compare, without load and store:
//               power 12 (9 fma, 1 div), hermite 18 (12 fma, 1 div), symmetric 19, general 2 + 6 per degree;
//               at (3, 2) power 8, the others 10; at (2, 1) all 6.
//   error       docs/kernels.md; measured for all 2^32 inputs by opau-certify.
//
// Everything lives in a namespace of the target, since translation units compiled for different instruction sets include it.
#pragma once
#include "opau/plan.hpp"

#ifndef OPAU_TARGET
#define OPAU_TARGET baseline
#endif

// OPAU_FUNCTION: for the rare, long ones.
#ifdef __CUDACC__
#define OPAU_INLINE __host__ __device__ __forceinline__
#define OPAU_FUNCTION __host__ __device__ __noinline__
#elif defined(_MSC_VER)
#define OPAU_INLINE __forceinline
#define OPAU_FUNCTION
#else
#define OPAU_INLINE inline __attribute__((always_inline))
#define OPAU_FUNCTION
#endif

namespace opau::OPAU_TARGET {

template <class O>
using V = typename O::V;

// sum_{i = first, first + 2, .. <= last} c_i t**((i - first) / 2), by Horner's rule.
// Coefficients are numbers, or vectors where each lane has its own; Ops::set takes both.
template <class O, int degree, class C>
OPAU_INLINE V<O> horner(const C* c, V<O> x) {
  V<O> total = O::set(c[degree]);
  for (int i = degree - 1; i >= 0; --i) total = O::fma(x, total, O::set(c[i]));
  return total;
}

// What the weight of a term of Q is multiplied with: opau_onnx/core/denominators.py.
template <class O, Mode mode>
OPAU_INLINE V<O> term(V<O> row) {
  if constexpr (mode == Mode::terms) return O::abs(row);
  return row;
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

// x**2 - centre_n, rounded once.
template <class O>
OPAU_INLINE V<O> centred(const Constants<typename O::T>& k, int n, V<O> x) {
  return O::fma(x, x, O::set(k.minus_centre[n]));
}

// The sum of Q's terms from the closed forms: g_2, g_3 / x, g_4. The largest term is added last, so that it is rounded once.
template <class O, Kind kind, Mode mode, int size = 0, class R>
OPAU_INLINE V<O> closed_sum(const Constants<typename O::T>& k, const R& row, V<O> x) {
  constexpr int L = kUnrolled[size].l;
  V<O> odd = O::set(row.d[1]), g3{};
  if constexpr (L >= 3) g3 = centred<O>(k, 3, x), odd = O::fma(O::set(row.d[3]), term<O, mode>(g3), odd);
  V<O> sum = O::fma(term<O, mode>(x), odd, O::set(row.d[0]));
  if constexpr (L >= 2) sum = O::fma(O::set(row.d[2]), term<O, mode>(centred<O>(k, 2, x)), sum);
  if constexpr (L >= 4) {
    const V<O> root = kind == Kind::hermite ? g3 : centred<O>(k, 4, x);
    sum = O::fma(O::set(row.d[4]), term<O, mode>(O::fma(root, root, O::set(k.minus_rest))), sum);
  }
  return sum;
}

template <class O, Kind kind, Mode mode, int size, class R>
OPAU_INLINE V<O> ordinary_unrolled(const Constants<typename O::T>& k, const R& row, V<O> x) {
  const V<O> top = horner<O, kUnrolled[size].k>(row.p, x);
  V<O> sum;
  if constexpr (kind == Kind::power) {
    sum = horner<O, kUnrolled[size].l>(row.d, term<O, mode>(x));
  } else {
    sum = closed_sum<O, kind, mode, size>(k, row, x);
  }
  return O::div(top, finish<O, mode>(k, sum));
}

template <class O, Mode mode, class R>
OPAU_INLINE V<O> ordinary_general(const Constants<typename O::T>& k, const R& row, int degree, V<O> x) {
  V<O> top = O::fma(x, O::set(0), O::set(row.c[0]));  // NaN stays NaN at degree 0 too
  V<O> sum = O::set(row.d[0]), before = O::set(0), now = O::set(1);
  for (int n = 1; n <= degree; ++n) {
    const V<O> slope = O::add(x, O::set(k.shift[n - 1]));
    const V<O> next = O::fma(slope, now, O::mul(O::set(k.minus_gamma[n - 1]), before));
    before = now;
    now = next;
    top = O::fma(O::set(row.c[n]), now, top);
    sum = O::fma(O::set(row.d[n]), term<O, mode>(now), sum);
  }
  return O::div(top, finish<O, mode>(k, sum));
}

// |x| <= limit, or NaN.
template <class O, Kind kind, Mode mode, int size = 0, class R>
OPAU_INLINE V<O> ordinary(const Constants<typename O::T>& k, const R& row, int degree, V<O> x) {
  if constexpr (kind == Kind::general) {
    return ordinary_general<O, mode>(k, row, degree, x);
  } else {
    return ordinary_unrolled<O, kind, mode, size>(k, row, x);
  }
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
  V<O> sum = O::set(row.d[0]), weight = O::set(mode == Mode::sum ? k.offset : k.minimum), before = zero, now = one;
  for (int n = 1, last = int(row.top); n <= last; ++n) {
    const V<O> slope = O::fma(O::set(k.shift[n - 1]), r, u);
    const V<O> next = O::fma(slope, now, O::mul(O::mul(O::set(k.minus_gamma[n - 1]), square), before));
    before = now;
    now = next;
    top = O::fma(top, r, O::mul(O::set(row.c[n]), now));
    sum = mode == Mode::none && row.d[n] == 0 ? O::mul(sum, r)  // where the sum is zero by underflow its sign is the limit's
                                              : O::fma(sum, r, O::mul(O::set(row.d[n]), term<O, mode>(now)));
    weight = O::mul(weight, r);
  }
  const V<O> bottom = finish<O, mode>(sum, weight, weight);
  return O::div(top, bottom);
}

}  // namespace opau::OPAU_TARGET
