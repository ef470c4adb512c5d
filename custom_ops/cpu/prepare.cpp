#include "opau/prepare.hpp"

#include <algorithm>
#include <cmath>

#include "opau/rows.hpp"

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
  if (groups < 1 || groups > kLargestGroups) {
    return "groups is " + std::to_string(groups) + "; expected 1 to " + std::to_string(kLargestGroups);
  }
  out->k = int(k);
  out->l = int(l);
  out->groups = groups;
  return "";
}

std::string block_error(int64_t block) {
  if (block >= 0 && block <= kLargestBlock && (block & (block - 1)) == 0) return "";
  return " is " + std::to_string(block) + "; expected 0, or a power of two up to " + std::to_string(kLargestBlock);
}

int64_t numerator_size(const Config& config) { return config.k + 1; }
int64_t denominator_size(const Config& config) { return config.l + 1 - kForms[config.form].first; }

template <class T>
std::string check_coefficients(const Config& config, const Coefficients<T>& c) {
  if (auto error = block_error(config.block); !error.empty()) return "the block of channels" + error;
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
  int size = 0;
  while (unrolled && size + 1 < kSizes && config.k <= kUnrolled[size + 1].k && config.l <= kUnrolled[size + 1].l) ++size;
  return {config, kind, kForms[config.form].mode, size, std::max(config.k, config.l)};
}

namespace {

// Sizes of the terms of one row: the largest up to the limit, the one of the highest degree in use there, the smallest coefficient.
struct Sizes {
  double largest, leading = 0, smallest = std::numeric_limits<double>::infinity();
};

template <class T>
Sizes sizes(const Plan& plan, const Coefficients<T>& from, int64_t group, double limit) {
  const auto& basis = kBases[plan.config.basis];
  const auto& form = kForms[plan.config.form];
  const int64_t c_size = numerator_size(plan.config), d_size = denominator_size(plan.config);
  const T* c = from.numerator + (from.numerator_rows > 1 ? group * c_size : 0);
  const T* d = from.denominator + (from.denominator_rows > 1 ? group * d_size : 0);
  Sizes found{std::max(form.offset, form.minimum)};
  double power = 1, before = 0, now = 1;  // limit**n; no g_n is larger than `now`
  for (int n = 0; n <= plan.degree; ++n) {
    double leading = 0;
    for (const double value : {n < c_size ? double(c[n]) : 0, n >= form.first && n - form.first < d_size ? double(d[n - form.first]) : 0}) {
      const double size = std::fabs(value * basis.leading[n]);
      if (size == 0) continue;
      found.largest = std::max(found.largest, size * now);
      found.smallest = std::min(found.smallest, size);
      if (n > 0) leading = std::max(leading, size * power);
    }
    if (leading > 0) found.leading = leading;
    if (n == plan.degree) break;
    const double next = (limit + std::fabs(basis.shift[n])) * now + std::fabs(basis.gamma[n]) * before;
    before = now;
    now = next;
    power *= limit;
  }
  return found;
}

}  // namespace

template <class T>
int common_exponent(const Plan& plan, const Coefficients<T>& from) {
  // Where the quotient of a P of at least this size and a Q that is not normal any more is beyond the largest number.
  constexpr double kEnough = 4;
  constexpr int kNormal = std::numeric_limits<T>::min_exponent + std::numeric_limits<T>::digits;  // room for a coefficient's digits
  constexpr int kRoom = std::numeric_limits<T>::max_exponent - 8;
  const double limit = make_constants<T>(plan).limit;
  int wanted = 0, allowed = kRoom;
  for (int64_t group = 0, rows = from.rows(); group < rows; ++group) {
    const Sizes found = sizes(plan, from, group, limit);
    if (!(found.largest < std::numeric_limits<double>::infinity())) return 0;  // out of training: not finite
    if (std::isinf(found.smallest)) continue;                                  // no coefficient but zeros and NaN
    allowed = std::min(allowed, kRoom - std::ilogb(found.largest) - 1);
    wanted = std::max(wanted, kNormal - std::ilogb(found.smallest));
    if (found.leading > 0 && found.leading < kEnough) wanted = std::max(wanted, 2 - std::ilogb(found.leading));
  }
  return std::max(0, std::min(wanted, allowed));
}

template <class T>
Constants<T> make_constants(const Plan& plan, int exponent) {
  const auto& basis = kBases[plan.config.basis];
  const auto& form = kForms[plan.config.form];
  Constants<T> k{};
  k.limit = T(form.limit[plan.kind == Kind::general ? plan.degree : std::max(kUnrolledK, kUnrolledL)]);
  k.offset = T(std::ldexp(form.offset, exponent));
  k.minimum = form.bounded ? T(std::ldexp(form.minimum, exponent)) : -std::numeric_limits<T>::infinity();
  for (int n = 2; n <= kUnrolledL; ++n) k.minus_centre[n] = T(-basis.centre[n]);
  k.minus_rest = T(-basis.rest);
  for (int n = 0; n < kMaxDegree; ++n) {
    k.shift[n] = T(basis.shift[n]);
    k.minus_gamma[n] = T(-basis.gamma[n]);
  }
  return k;
}

Definition make_definition(const Plan& plan, int exponent) {
  const auto& basis = kBases[plan.config.basis];
  const auto& form = kForms[plan.config.form];
  Definition def{};
  def.mode = plan.mode;
  def.c_size = int(numerator_size(plan.config));
  def.d_size = int(denominator_size(plan.config));
  def.first = form.first;
  def.offset = form.offset;
  def.factor = std::ldexp(1.0, exponent);
  std::copy_n(basis.leading, kRowSize, def.leading);
  for (int i = 0; i <= kUnrolledK; ++i) std::copy_n(basis.monomials[i], kUnrolledK + 1, def.monomials[i]);
  return def;
}

template <class T>
FullRow<T> make_row(const Plan& plan, const Coefficients<T>& from, int64_t group, int exponent) {
  const Definition def = make_definition(plan, exponent);
  FullRow<T> row;
  OPAU_TARGET::fill_row(def, from.numerator + (from.numerator_rows > 1 ? group * def.c_size : 0),
                        from.denominator + (from.denominator_rows > 1 ? group * def.d_size : 0), &row);
  const int64_t affine = from.affine_rows > 1 ? group : 0;
  if (from.affine_rows) {
    row.scale = from.scale[affine];
    row.shift = from.shift[affine];
  }
  return row;
}

template std::string check_coefficients(const Config&, const Coefficients<float>&);
template std::string check_coefficients(const Config&, const Coefficients<double>&);
template int common_exponent(const Plan&, const Coefficients<float>&);
template int common_exponent(const Plan&, const Coefficients<double>&);
template Constants<float> make_constants(const Plan&, int);
template Constants<double> make_constants(const Plan&, int);
template FullRow<float> make_row(const Plan&, const Coefficients<float>&, int64_t, int);
template FullRow<double> make_row(const Plan&, const Coefficients<double>&, int64_t, int);

}  // namespace opau
