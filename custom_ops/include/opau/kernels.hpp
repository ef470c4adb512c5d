// The table of CPU kernels of one instruction set. Plain function pointers: chosen once, when an activation is made.
#pragma once
#include <cstdint>

#include "opau/plan.hpp"

namespace opau {

inline constexpr int kKinds = 4;
using tables::kModes;

// Coefficients where neighbours have different ones: value i of lane n at values[i * stride + n]; the c_i come first (kRowSize of
// them), then the d_j, then the monomials p_i, scale and shift. Runs of `repeat` lanes have the same row; after the last row the first
// comes again.
inline constexpr int kLaneScale = 2 * kRowSize + kUnrolledK + 1, kLaneValues = kLaneScale + 2;

template <class T>
struct Lanes {
  const T* values;
  int64_t stride;
  const FullRow<T>* rows;
  int64_t count, repeat;  // of the rows

  const FullRow<T>& row(int64_t lane) const { return rows[lane / repeat % count]; }
};

// Contract of both
//   x, y    element pointers of the kernel's dtype, any alignment (of an element), either equal or not overlapping
//   count   elements, >= 0; every y[0..count) is written, some twice with the same value; nothing else is touched
//   stream  write y past the cache: faster where x and y together do not fit in it; same values
template <class T>
using RowKernel = void (*)(const Constants<T>&, const FullRow<T>&, int degree, const void* x, void* y, int64_t count, bool stream);
// Elements of the lanes lane .. lane + count.
template <class T>
using LaneKernel = void (*)(const Constants<T>&, const Lanes<T>&, int degree, const void* x, void* y, int64_t lane, int64_t count);

// `runs` runs of `length` elements, at least a vector each, one behind the other: of row `first` and those after it, in a circle.
// The rows' scale and shift count. x and y as above.
template <class T>
using RunKernel = void (*)(const Constants<T>&, const FullRow<T>* rows, int64_t groups, int64_t first, int degree, const void* x, void* y,
                           int64_t length, int64_t runs);

// One row for all elements, and for each its own scale and shift: readable for a vector beyond count. KernelSet::vector takes one
// vector of them, for lanes that come round in every vector.
template <class T>
using TileKernel = void (*)(const Constants<T>&, const FullRow<T>&, int degree, const T* scale, const T* shift, const void* x, void* y, int64_t count);

template <class T>
struct KernelSet {
  struct Functions {
    RowKernel<T> row, affine_row;  // the second at scale x + shift; lanes always are
    TileKernel<T> tile, vector;
    LaneKernel<T> lane;
    RunKernel<T> runs;
  } of[kKinds][kModes][kSizes];
  int width;  // elements of a vector
};

struct InstructionSet {
  const char* name;
  bool (*available)();  // on this machine
  KernelSet<float> float32, float16, bfloat16;
  KernelSet<double> float64;
  const InstructionSet* again = nullptr;  // the same source, compiled for more of the processor
};

}  // namespace opau
