// The table of gradient kernels of one instruction set, as kernels.hpp has that of the values.
#pragma once
#include <array>

#include "opau/kernels.hpp"

namespace opau {

// FullRow and what the derivatives need besides.
template <class T, int C, int D>
struct GradientRow : Row<T, C, D> {
  T slope[kUnrolledK];  // P' in monomials
  T pull[kUnrolledL];   // n d_n, n = 1 .. 4
  T third;              // g_3' = 3 (x**2 + third)
};

template <class T>
using FullGradientRow = GradientRow<T, kRowSize, kRowSize>;

inline constexpr int kSums = 2 * kRowSize;  // the numerator's by degree, then the denominator's
inline constexpr int kClosedSums = kUnrolledK + kUnrolledL + 2;

// `runs` runs of `length` elements, `stride` apart. Pointers to the first element of the first run; any alignment (of an element).
// dx is null where only the sums are wanted; it may not overlap x or g.
struct Runs {
  const void* x;
  const void* g;
  void* dx;
  int64_t runs, length, stride;
};

// Coefficients by lane: value i of lane n at values[i * stride + n], in the order of kernels.hpp's Lanes; readable for a vector beyond
// the last. Lane n has the row n / repeat % groups.
template <class T>
struct GradientLanes {
  const T* values;
  int64_t stride, repeat, groups;
  T third;
  const FullGradientRow<T>* rows;
};

// Adds to sums (see gradient.hpp): kSums of them, by the monic rows. Null in kernels without sums.
template <class T>
using RunGradient = void (*)(const Constants<T>&, const FullGradientRow<T>&, int degree, const Runs&, double* sums);
// For length lanes from `first`, at most 64 bytes of T; sums: kSums for each.
template <class T>
using LaneGradient = void (*)(const Constants<T>&, const GradientLanes<T>&, int degree, int64_t first, const Runs&, double* sums);

// Each pair: dx alone, dx and sums.
template <class T>
struct GradientSet {
  std::array<RunGradient<T>, 2> run[kKinds][kModes];
  std::array<LaneGradient<T>, 2> lanes[kKinds][kModes];
};

struct GradientKernels {
  GradientSet<float> float32, float16, bfloat16;
  GradientSet<double> float64;
};

}  // namespace opau
