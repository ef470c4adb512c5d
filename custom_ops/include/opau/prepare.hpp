// From a configuration and its coefficients to what the kernels take. Runs on the host, once for constant coefficients.
#pragma once
#include <limits>
#include <string>

#include "opau/plan.hpp"

namespace opau {

// Coefficients as the node has them: rows x size values, row-major; rows is 1 or config.groups. Where there is an affine before the
// activation, x becomes scale x + shift, with a value for each of affine_rows rows.
template <class T>
struct Coefficients {
  const T* numerator;
  int64_t numerator_rows;
  const T* denominator;
  int64_t denominator_rows;
  const T* scale = nullptr;
  const T* shift = nullptr;
  int64_t affine_rows = 0;
  int64_t rows() const { return numerator_rows > 1 ? numerator_rows : denominator_rows > 1 ? denominator_rows : affine_rows > 1 ? affine_rows : 1; }
};

// Where a tensor's channels lie: x has outer * channels * inner elements; groups divide channels. Shared: {1, 1, count}.
struct Extent {
  int64_t outer = 1, channels = 1, inner = 0;
  int64_t count() const { return outer * channels * inner; }
};

// "" or what is wrong, what was expected.
std::string find_config(const std::string& basis, const std::string& form, int64_t k, int64_t l, int64_t groups, Config* out);
// The same of Config::block, without its name.
std::string block_error(int64_t block);
template <class T>
std::string check_coefficients(const Config&, const Coefficients<T>&);

int64_t numerator_size(const Config&);
int64_t denominator_size(const Config&);

Plan make_plan(const Config&);
// The power of two, >= 1, with which P and Q both are multiplied so that neither underflows beyond the limit before their quotient is
// out of range: COEFFICIENT_FLOOR in opau_onnx/core/spec.py. One for all rows; its exponent goes into the two below.
template <class T>
int common_exponent(const Plan&, const Coefficients<T>&);
template <class T>
Constants<T> make_constants(const Plan&, int exponent = 0);
Definition make_definition(const Plan&, int exponent = 0);
// The row of one group, 0 <= group < max(1, config.groups).
template <class T>
FullRow<T> make_row(const Plan&, const Coefficients<T>&, int64_t group, int exponent = 0);

}  // namespace opau
