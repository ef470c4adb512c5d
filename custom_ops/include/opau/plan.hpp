// What a kernel needs to know of an activation: plain data, prepared once from the definition's tables and the coefficients.
// No function here: these types cross between translation units that are compiled for different instruction sets.
#pragma once
#include <cstdint>

#include "opau/tables.hpp"

namespace opau {

// Element types, by ONNX's numbers (TensorProto.DataType).
enum class Dtype : int { float32 = 1, float16 = 10, float64 = 11, bfloat16 = 16 };

// Which function a node computes, apart from its coefficients; indices into tables::kBases and tables::kForms.
struct Config {
  int basis = 0;
  int form = 0;
  int k = 0;
  int l = 0;
  int64_t groups = 1;
  int64_t block = 0;  // channels lie in blocks of so many, innermost (onnxruntime's NCHWc); 0: they do not
};

// How the rows f_n are evaluated where |x| <= limit.
// The first three take P in monomials, by Horner's rule, and degrees up to (5, 4); there Q's rows are
//   power      monomials too;
//   hermite    the closed forms of tables::Basis::centre, where g_4 shares g_3's square (both Hermite bases);
//   symmetric  the closed forms of any symmetric basis.
//   general    P and Q by the monic three-term recurrence, any basis and degrees: the degrees are run-time values.
enum class Kind : int { power, hermite, symmetric, general };

using tables::Mode;

// The unrolled kinds run on the smallest of these degrees that holds (k, l), padded with zero coefficients: the same bits in each.
struct Degrees {
  int k, l;
};
inline constexpr Degrees kUnrolled[] = {{5, 4}, {3, 2}, {2, 1}};
inline constexpr int kSizes = 3, kUnrolledK = kUnrolled[0].k, kUnrolledL = kUnrolled[0].l;

// Whether kernels of the CPU are compiled for the lower ones too: what HP-1 and `opau-collapse --tolerance` come to. A sum of which
// terms cancel could be -0 in one size and 0 in another, but for Horner's rule.
constexpr bool in_every_size(Kind kind, Mode mode) {
  return kind != Kind::general && (mode == Mode::terms || (mode == Mode::none && kind == Kind::power));
}

// So that sizes of tables, in bytes, fit 63 bits with room to spare.
inline constexpr int64_t kLargestGroups = int64_t(1) << 31;
// The largest Config::block; onnxruntime's are 8 and 16.
inline constexpr int64_t kLargestBlock = 64;

inline constexpr int kRowSize = tables::kMaxDegree + 1;

// The basis' and the form's constants in the type that is computed in. Signs are such that kernels only add and fma.
template <class T>
struct Constants {
  T limit;    // X0 of the range policy: beyond it the scaled evaluation takes over
  T offset;   // Q's constant where the absolute value is around the sum; else it is part of d[0]
  T minimum;  // Q's lower bound, -inf where it has none
  T minus_centre[kUnrolledL + 1], minus_rest;
  T shift[tables::kMaxDegree], minus_gamma[tables::kMaxDegree];
};

// One group's coefficients of the monic rows: c_i leading_i and the weights of d_j leading_j (abs of it in Mode::terms), zero-padded.
// Nothing but values of type T, so that a row can be copied one by one.
template <class T, int C, int D>
struct Row {
  T c[C];
  T d[D];
  T p[kUnrolledK + 1];  // the numerator in monomials, where k <= kUnrolledK
  T top;                // M: the largest degree whose coefficient is not zero
  T scale, shift;       // f is evaluated at fma(x, scale, shift); 1 and -0, which change no bit, where there is no affine
};

template <class T>
using FullRow = Row<T, kRowSize, kRowSize>;

// What makes rows of coefficients: the tables' part of one function. P and Q are both multiplied by `factor`, a power of two.
struct Definition {
  Mode mode;
  int c_size, d_size, first;  // the denominator's first coefficient belongs to f_first
  double offset, factor;
  double leading[kRowSize];   // f_n = leading_n g_n
  double monomials[kUnrolledK + 1][kUnrolledK + 1];
};

struct Plan {
  Config config;
  Kind kind;
  Mode mode;
  int size;    // the index in kUnrolled of the smallest degrees that hold (k, l); 0 in Kind::general
  int degree;  // max(k, l): how far Kind::general has to go
};

}  // namespace opau
