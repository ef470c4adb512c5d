#include "certify/oracle.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "opau/tables.hpp"

// The loops over a block are for the vectoriser; the wider vectors need no fused operations to pay.
#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define OPAU_CLONES __attribute__((target_clones("avx2", "default")))
#else
#define OPAU_CLONES
#endif

namespace opau::oracle {
namespace {

template <class F>
struct Sums {
  F top[kBlock], top_size[kBlock], inner[kBlock], inner_size[kBlock];
  F before[kBlock], now[kBlock];
};

template <class F>
inline __attribute__((always_inline)) void add(F c, const F* f, int n, bool absolute, F* sum, F* size) {
  for (int i = 0; i < n; ++i) {
    const F term = c * f[i], positive = term < 0 ? -term : term;
    sum[i] += absolute ? positive : term;
    size[i] += positive;
  }
}

template <class F>
inline __attribute__((always_inline)) void step(const tables::Basis& basis, int m, const F* x, int n, F* before, F* now) {
  const F a = F(basis.a[m]), b = F(basis.b[m]), c = F(basis.c[m]);
  for (int i = 0; i < n; ++i) {
    const F next = (a * x[i] + b) * now[i] - c * before[i];
    before[i] = now[i];
    now[i] = next;
  }
}

template <class F>
inline __attribute__((always_inline)) void sums(const Function& f, const F* x, int n, Sums<F>& s) {
  const auto& form = tables::kForms[f.form];
  for (int i = 0; i < n; ++i) {
    s.top[i] = s.top_size[i] = s.inner[i] = s.inner_size[i] = s.before[i] = 0;
    s.now[i] = 1;
  }
  const int degree = f.k > f.l ? f.k : f.l;
  for (int m = 0; m <= degree; ++m) {
    if (m > 0) step(tables::kBases[f.basis], m - 1, x, n, s.before, s.now);
    if (m <= f.k) add(F(f.numerator[m]), s.now, n, false, s.top, s.top_size);
    if (m <= f.l && m >= form.first) {
      add(F(f.denominator[m - form.first]), s.now, n, form.mode == tables::Mode::terms, s.inner, s.inner_size);
    }
  }
}

template <class F>
inline __attribute__((always_inline)) void finish(const Function& f, int n, const Sums<F>& s, double* value, double* condition) {
  const auto& form = tables::kForms[f.form];
  const F offset = F(form.offset), minimum = F(form.minimum);
  for (int i = 0; i < n; ++i) {
    const F inner = form.mode == tables::Mode::sum && s.inner[i] < 0 ? -s.inner[i] : s.inner[i];
    F bottom = offset + inner;
    const bool clamped = form.bounded && bottom < minimum;
    if (clamped) bottom = minimum;
    const F grows = (offset + s.inner_size[i]) / bottom, cancels = s.top_size[i] / s.top[i];
    value[i] = s.top[i] == 0 ? 0.0 : double(s.top[i] / bottom);
    condition[i] = double((cancels < 0 ? -cancels : cancels) + (clamped ? 0 : grows < 0 ? -grows : grows));
  }
}

OPAU_CLONES void in_double(const Function& f, const double* x, int n, double* value, double* condition) {
  Sums<double> s;
  sums(f, x, n, s);
  finish(f, n, s, value, condition);
}

void in_long_double(const Function& f, const double* x, int n, double* value, double* condition) {
  static_assert(std::numeric_limits<long double>::max_exponent > 16 * 600 || std::numeric_limits<long double>::max_exponent == 1024);
  Sums<long double> s;
  long double wide[kBlock];
  for (int i = 0; i < n; ++i) wide[i] = std::isinf(x[i]) ? std::copysign(0x1p600L, static_cast<long double>(x[i])) : x[i];
  sums(f, wide, n, s);
  finish(f, n, s, value, condition);
}

}  // namespace

void evaluate(const Function& f, const double* x, int n, double* value, double* condition) {
  bool finite = true;
  for (int i = 0; i < n; ++i) finite &= !std::isinf(x[i]);
  if (finite && std::max(f.k, f.l) <= 7) {
    in_double(f, x, n, value, condition);
  } else {
    in_long_double(f, x, n, value, condition);
  }
}

}  // namespace opau::oracle
