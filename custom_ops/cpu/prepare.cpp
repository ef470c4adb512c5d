#include "opau/prepare.hpp"

#include <algorithm>
#include <cmath>

namespace opau {
namespace {

using tables::kBases;
using tables::kForms;
using tables::kMaxDegree;

template <class Table>
std::string find(const Table& table, const std::string& name, const char* what, int* index) {
  std::string names;
  int i = 0;
  for (const auto& entry : table) {
    if (name == entry.name) {
      *index = i;
      return "";
    }
    names += (i++ ? ", " : "") + std::string(entry.name);
  }
  return std::string("unknown ") + what + " '" + name + "'; expected one of " + names;
}

std::string rows_error(const char* what, int64_t rows, int64_t groups) {
  if (rows == 1 || rows == groups) return "";
  return std::string("the ") + what + " has " + std::to_string(rows) + " rows; expected 1" +
         (groups > 1 ? " or " + std::to_string(groups) + ", one for each group" : "");
}

template <class T>
std::string values_error(const char* what, const T* values, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    if (!std::isfinite(values[i])) {
      return std::string("the ") + what + "'s coefficient " + std::to_string(i) + " is " + (std::isnan(values[i]) ? "NaN" : "infinite") +
             "; expected a finite number";
    }
  }
  return "";
}

}  // namespace

std::string find_config(const std::string& basis, const std::string& form, int64_t k, int64_t l, int64_t groups, Config* out) {
  if (auto error = find(kBases, basis, "basis", &out->basis); !error.empty()) return error;
  if (auto error = find(kForms, form, "denominator form", &out->form); !error.empty()) return error;
  if (k < 0 || l < 0 || k > kMaxDegree || l > kMaxDegree) {
    return "degrees is (" + std::to_string(k) + ", " + std::to_string(l) + "); expected two whole numbers from 0 to " +
           std::to_string(kMaxDegree);
  }
  if (groups < 1) return "groups is " + std::to_string(groups) + "; expected at least 1";
  out->k = int(k);
  out->l = int(l);
  out->groups = groups;
  return "";
}

int64_t numerator_size(const Config& config) { return config.k + 1; }
int64_t denominator_size(const Config& config) { return config.l + 1 - kForms[config.form].first; }

template <class T>
std::string check_coefficients(const Config& config, const Coefficients<T>& c) {
  if (auto error = rows_error("numerator", c.numerator_rows, config.groups); !error.empty()) return error;
  if (auto error = rows_error("denominator", c.denominator_rows, config.groups); !error.empty()) return error;
  if (c.affine_rows) {
    if (auto error = rows_error("scale", c.affine_rows, config.groups); !error.empty()) return error;
    if (auto error = values_error("scale", c.scale, c.affine_rows); !error.empty()) return error;
    if (auto error = values_error("shift", c.shift, c.affine_rows); !error.empty()) return error;
  }
  if (auto error = values_error("numerator", c.numerator, c.numerator_rows * numerator_size(config)); !error.empty()) return error;
  return values_error("denominator", c.denominator, c.denominator_rows * denominator_size(config));
}

Plan make_plan(const Config& config) {
  const auto& basis = kBases[config.basis];
  const bool unrolled = config.k <= kUnrolledK && config.l <= kUnrolledL && basis.symmetric;
  const bool shared = basis.centre[3] == basis.centre[4];
  const Kind kind = !unrolled ? Kind::general : basis.power ? Kind::power : shared ? Kind::hermite : Kind::symmetric;
  return {config, kind, kForms[config.form].mode, std::max(config.k, config.l)};
}

template <class T>
Constants<T> make_constants(const Plan& plan) {
  const auto& basis = kBases[plan.config.basis];
  const auto& form = kForms[plan.config.form];
  Constants<T> k{};
  k.limit = T(form.limit[plan.kind == Kind::general ? plan.degree : std::max(kUnrolledK, kUnrolledL)]);
  k.offset = T(form.offset);
  k.minimum = form.bounded ? T(form.minimum) : -std::numeric_limits<T>::infinity();
  for (int n = 2; n <= kUnrolledL; ++n) k.minus_centre[n] = T(-basis.centre[n]);
  k.minus_rest = T(-basis.rest);
  for (int n = 0; n < kMaxDegree; ++n) {
    k.shift[n] = T(basis.shift[n]);
    k.minus_gamma[n] = T(-basis.gamma[n]);
  }
  return k;
}

template <class T>
FullRow<T> make_row(const Plan& plan, const Coefficients<T>& from, int64_t group) {
  const auto& basis = kBases[plan.config.basis];
  const auto& form = kForms[plan.config.form];
  const int64_t c_size = numerator_size(plan.config), d_size = denominator_size(plan.config);
  const T* c = from.numerator + (from.numerator_rows > 1 ? group * c_size : 0);
  const T* d = from.denominator + (from.denominator_rows > 1 ? group * d_size : 0);
  FullRow<T> row{};
  int top = 0;
  for (int i = 0; i < c_size; ++i) {
    row.c[i] = T(double(c[i]) * basis.leading[i]);
    if (c[i] != 0) top = std::max(top, i);
  }
  for (int j = 0; j < d_size; ++j) {
    const int n = j + form.first;
    const double value = double(d[j]) * basis.leading[n];
    row.d[n] = T(plan.mode == Mode::terms ? std::fabs(value) : value);
    if (d[j] != 0) top = std::max(top, n);
  }
  row.top = T(top);
  const int64_t affine = from.affine_rows > 1 ? group : 0;
  row.scale = from.affine_rows ? from.scale[affine] : T(1);
  row.shift = from.affine_rows ? from.shift[affine] : T(-0.0);
  for (int n = 0; n <= kUnrolledK && plan.config.k <= kUnrolledK; ++n) {
    double total = 0;
    for (int i = n; i < c_size; ++i) total += double(c[i]) * basis.monomials[i][n];
    row.p[n] = T(total);
  }
  if (plan.mode != Mode::sum) row.d[0] = T(double(row.d[0]) + form.offset);
  return row;
}

template std::string check_coefficients(const Config&, const Coefficients<float>&);
template std::string check_coefficients(const Config&, const Coefficients<double>&);
template Constants<float> make_constants(const Plan&);
template Constants<double> make_constants(const Plan&);
template FullRow<float> make_row(const Plan&, const Coefficients<float>&, int64_t);
template FullRow<double> make_row(const Plan&, const Coefficients<double>&, int64_t);

}  // namespace opau
