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

#define OPAU_EACH inline __attribute__((always_inline))

template <class F>
F size(F x) {
  return x < 0 ? -x : x;
}

// Rows f_n and bounds of their rounding errors in units of u, sums of P and Q, of the sizes of their terms, of what errors make of them.
template <class F>
struct Sums {
  F row[tables::kMaxDegree + 1][kBlock], error[tables::kMaxDegree + 1][kBlock];
  F top[kBlock], top_size[kBlock], top_error[kBlock], inner[kBlock], inner_size[kBlock], inner_error[kBlock];
  F local[kBlock], before[kBlock], now[kBlock];
};

template <class F>
OPAU_EACH void rows(const tables::Basis& basis, int degree, const F* x, int n, Sums<F>& s) {
  for (int i = 0; i < n; ++i) s.row[0][i] = 1;
  for (int m = 0; m < degree; ++m) {
    const F a = F(basis.a[m]), b = F(basis.b[m]), c = F(basis.c[m]);
    const F* before = s.row[m > 0 ? m - 1 : 0];
    for (int i = 0; i < n; ++i) s.row[m + 1][i] = (a * x[i] + b) * s.row[m][i] - c * before[i];  // c is 0 at m = 0
  }
}

// A rounding at step j reaches f_n through the recurrence's own solution that starts with 0, 1 there.
template <class F>
OPAU_EACH void errors(const tables::Basis& basis, int degree, double limit, const F* x, int n, Sums<F>& s) {
  for (int m = 0; m <= degree; ++m) {
    for (int i = 0; i < n; ++i) s.error[m][i] = size(x[i]) > F(limit) ? 4 * degree * size(s.row[m][i]) : F(0);
  }
  for (int j = 1; j <= degree; ++j) {
    const F a = size(F(basis.a[j - 1])), b = size(F(basis.b[j - 1])), c = j > 1 ? size(F(basis.c[j - 1])) : F(0);
    const F* before = s.row[j > 1 ? j - 2 : 0];
    for (int i = 0; i < n; ++i) {
      s.local[i] = 4 * ((a * size(x[i]) + b) * size(s.row[j - 1][i]) + c * size(before[i]));
      s.before[i] = 0;
      s.now[i] = 1;
    }
    for (int m = j; m <= degree; ++m) {
      const F up = m < degree ? F(basis.a[m]) : F(0), middle = m < degree ? F(basis.b[m]) : F(0), down = m < degree ? F(basis.c[m]) : F(0);
      for (int i = 0; i < n; ++i) {
        s.error[m][i] += size(s.now[i]) * s.local[i];
        const F next = (up * x[i] + middle) * s.now[i] - down * s.before[i];
        s.before[i] = s.now[i];
        s.now[i] = next;
      }
    }
  }
}

template <class F>
OPAU_EACH void add(F c, const F* f, const F* wrong, F roundings, int n, bool absolute, F* sum, F* sizes, F* error) {
  for (int i = 0; i < n; ++i) {
    const F term = c * f[i], positive = size(term);
    sum[i] += absolute ? positive : term;
    sizes[i] += positive;
    error[i] += size(c) * (wrong[i] + size(f[i]) * roundings);
  }
}

template <class F>
OPAU_EACH void sums(const Function& f, const F* x, int n, Sums<F>& s) {
  const auto& form = tables::kForms[f.form];
  const int degree = f.k > f.l ? f.k : f.l, weights = f.l + 1 - form.first;
  rows(tables::kBases[f.basis], degree, x, n, s);
  errors(tables::kBases[f.basis], degree, form.limit[degree], x, n, s);
  for (int i = 0; i < n; ++i) s.top[i] = s.top_size[i] = s.top_error[i] = s.inner[i] = s.inner_size[i] = s.inner_error[i] = 0;
  for (int m = 0; m <= f.k; ++m) {
    add(F(f.numerator[m]), s.row[m], s.error[m], F(f.k + 3), n, false, s.top, s.top_size, s.top_error);
  }
  for (int m = form.first; m <= f.l; ++m) {
    add(F(f.denominator[m - form.first]), s.row[m], s.error[m], F(weights + 2), n, form.mode == tables::Mode::terms, s.inner,
        s.inner_size, s.inner_error);
  }
}

template <class F>
OPAU_EACH void finish(const Function& f, int n, const Sums<F>& s, Values* out) {
  const auto& form = tables::kForms[f.form];
  const F offset = F(form.offset), minimum = F(form.minimum), coarsest = F(0x1p-23);
  for (int i = 0; i < n; ++i) {
    const F inner = form.mode == tables::Mode::sum ? size(s.inner[i]) : s.inner[i];
    F bottom = offset + inner;
    const F all = offset + s.inner_size[i], wrong = s.inner_error[i] + 2 * all;
    const bool clamped = form.bounded && bottom < minimum, surely = form.bounded && bottom + wrong * coarsest < minimum;
    if (clamped) bottom = minimum;
    const F value = s.top[i] == 0 ? F(0) : s.top[i] / bottom, relative = surely ? F(0) : size(wrong / bottom);
    out->value[i] = double(value);
    out->condition[i] = double(size(s.top_size[i] / s.top[i]) + (clamped ? F(0) : size(all / bottom)));
    out->bound[i] = double(size(s.top_error[i] / bottom) + size(value) * (relative + 2));
    out->bottom[i] = double(relative);
    out->clamped[i] = clamped;
  }
}

// 2**-23 of the bound is far more than these: only inputs beyond X0, one by one.
template <class F>
void underflow(const Function& f, const F* x, int n, const Sums<F>& s, Values* out) {
  const auto& form = tables::kForms[f.form];
  const auto& basis = tables::kBases[f.basis];
  const int degree = f.k > f.l ? f.k : f.l;
  const F limit = F(form.limit[degree]);
  int used = 0;
  F leading = 0, power = 1;
  for (int m = 0; m <= degree; ++m, power *= limit) {
    const double c = m <= f.k ? f.numerator[m] : 0, d = m >= form.first && m <= f.l ? f.denominator[m - form.first] : 0;
    if (c == 0 && d == 0) continue;
    used = m;
    leading = F(std::max(std::fabs(c), std::fabs(d)) * std::fabs(basis.leading[m])) * power;
  }
  // Half of the common factor, which is at least 1: opau_onnx/core/spec.py. The kernels' own limit of it lies further up.
  const F factor = used > 0 && leading < 2 ? 2 / leading : F(1);
  for (int i = 0; i < n; ++i) {
    out->underflow[i] = 0;
    if (!(size(x[i]) > limit)) continue;
    const F r = limit / size(x[i]), inner = form.mode == tables::Mode::sum ? size(s.inner[i]) : s.inner[i];
    F top = F(f.k + 2), bottom = F(f.l + 2 - form.first), scale = factor, weight = 1;
    for (int m = 0; m <= degree; ++m, weight *= r) {
      const F term = size(s.row[m][i]) * weight + 1;
      if (m <= f.k) top += size(F(f.numerator[m])) * term;
      if (m >= form.first && m <= f.l) bottom += size(F(f.denominator[m - form.first])) * term;
      if (m < used) scale *= r;
    }
    const F all = out->clamped[i] ? F(form.minimum) : F(form.offset) + inner;
    out->underflow[i] = double(size((top + size(F(out->value[i])) * bottom) / (all * scale)));
  }
}

OPAU_CLONES void sums_in_double(const Function& f, const double* x, int n, Sums<double>& s, Values* out) {
  sums(f, x, n, s);
  finish(f, n, s, out);
}

void in_double(const Function& f, const double* x, int n, Values* out) {
  static thread_local Sums<double> s;
  sums_in_double(f, x, n, s, out);
  underflow(f, x, n, s, out);
}

void in_long_double(const Function& f, const double* x, int n, Values* out) {
  static_assert(std::numeric_limits<long double>::max_exponent > 16 * 600 || std::numeric_limits<long double>::max_exponent == 1024);
  static thread_local Sums<long double> s;
  long double wide[kBlock];
  for (int i = 0; i < n; ++i) wide[i] = std::isinf(x[i]) ? std::copysign(0x1p600L, static_cast<long double>(x[i])) : x[i];
  sums(f, wide, n, s);
  finish(f, n, s, out);
  underflow(f, wide, n, s, out);
}

}  // namespace

void evaluate(const Function& f, const double* x, int n, Values* out) {
  bool finite = true;
  for (int i = 0; i < n; ++i) finite &= !std::isinf(x[i]);
  if (finite && std::max(f.k, f.l) <= 7) {
    in_double(f, x, n, out);
  } else {
    in_long_double(f, x, n, out);
  }
}

}  // namespace opau::oracle
