// CUDA kernel bodies.
//
// Contract
//   x, y      any alignment of an element; equal or not overlapping (no restrict: in place is allowed)
//   count     64 bits; every y is written exactly once, by one thread
//   rows      by value in the launch's parameters, read through the constant bank or, for short runs, copied to shared memory:
//             no global read of coefficients
//   traffic   one 16-byte load and one 16-byte store for each pack of the main loop: 2 * count * sizeof(element) bytes, the floor
//   bits      float32 as on the CPU
#pragma once
#include <cstdint>

#include "opau/value_cuda.hpp"

namespace opau::OPAU_TARGET {

template <class T, Kind kind>
struct CudaRow {
  using type = Row<T, kUnrolledK + 1, kUnrolledK + 1>;  // `scaled` reads d up to the larger degree
};
template <class T>
struct CudaRow<T, Kind::general> {
  using type = FullRow<T>;
};

template <class T, class R>
struct Function {
  Constants<T> constants;
  R row;
  int degree;
};

// The groups first .. first + count of `all`; each row serves `length` neighbours, then comes the next group's.
template <class T, class R, int capacity>
struct Groups {
  Constants<T> constants;
  int degree, count;
  int64_t first, all, length;
  R row[capacity];
};

// To the left by one, with fixed indices: an array that is indexed at run time would lie in local memory.
template <int N, class T>
OPAU_INLINE void rotate(T* values) {
  const T first = values[0];
#pragma unroll
  for (int i = 1; i < N; ++i) values[i - 1] = values[i];
  values[N - 1] = first;
}

template <Dtype dtype, Kind kind, Mode mode>
struct Body {
  using Element = CudaElement<dtype>;
  using E = typename Element::Stored;
  using T = typename Element::T;
  using O = CudaOps<T>;
  using R = typename CudaRow<T, kind>::type;
  static constexpr int N = 16 / sizeof(E);

  struct alignas(16) Pack {
    E element[N];
  };

  static OPAU_INLINE E one(const Constants<T>& k, const R& row, int degree, E element) {
    const T x = Element::get(element);
    T y = ordinary<O, kind, mode>(k, row, degree, x);
    if (O::abs(x) > k.limit) y = scaled<O, mode>(k, row, x);
    return Element::put(y);
  }

  static OPAU_INLINE Pack pack(const Constants<T>& k, const R& row, int degree, const Pack& in) {
    T x[N], y[N];
    bool beyond = false;
    for (int i = 0; i < N; ++i) {
      x[i] = Element::get(in.element[i]);
      beyond = beyond || O::abs(x[i]) > k.limit;
      y[i] = ordinary<O, kind, mode>(k, row, degree, x[i]);
    }
    if (beyond) replace(k, row, x, y);
    Pack out;
    for (int i = 0; i < N; ++i) out.element[i] = Element::put(y[i]);
    return out;
  }

  // The rare case: one copy of the scaled evaluation for all elements of a pack, which pass by it one after the other.
  static OPAU_INLINE void replace(const Constants<T>& k, const R& row, T* x, T* y) {
#pragma unroll 1
    for (int i = 0; i < N; ++i) {
      if (O::abs(x[0]) > k.limit) y[0] = scaled<O, mode>(k, row, x[0]);
      rotate<N>(x);
      rotate<N>(y);
    }
  }

  // count neighbours with one row, by `threads` threads of which this is number `thread`.
  static OPAU_INLINE void span(const Constants<T>& k, const R& row, int degree, const E* x, E* y, int64_t count, int64_t thread,
                               int64_t threads) {
    const uintptr_t from = reinterpret_cast<uintptr_t>(x), to = reinterpret_cast<uintptr_t>(y);
    // Elements before the first 16-byte boundary; where x and y are not aligned alike, all go one by one.
    int64_t head = int64_t(-to % 16 / sizeof(E));
    if (from % 16 != to % 16 || head > count) head = count;
    const int64_t packs = (count - head) / N;
    const Pack* in = reinterpret_cast<const Pack*>(x + head);
    Pack* out = reinterpret_cast<Pack*>(y + head);
#pragma unroll 1
    for (int64_t i = thread; i < packs; i += threads) out[i] = pack(k, row, degree, in[i]);
    const int64_t rest = count - packs * N;
#pragma unroll 1
    for (int64_t i = thread; i < rest; i += threads) {
      const int64_t at = i < head ? i : i + packs * N;
      y[at] = one(k, row, degree, x[at]);
    }
  }
};

// One row for the whole tensor.
template <Dtype dtype, Kind kind, Mode mode, class B = Body<dtype, kind, mode>>
__global__ void shared_kernel(const typename B::E* x, typename B::E* y, int64_t count,
                              const __grid_constant__ Function<typename B::T, typename B::R> f) {
  const int64_t thread = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, threads = int64_t(gridDim.x) * blockDim.x;
  B::span(f.constants, f.row, f.degree, x, y, count, thread, threads);
}

// Long runs: a block stays inside one run, so its row is the same for all threads.
template <Dtype dtype, Kind kind, Mode mode, int capacity, class B = Body<dtype, kind, mode>>
__global__ void runs_kernel(const typename B::E* x, typename B::E* y, int64_t runs, int64_t tile,
                            const __grid_constant__ Groups<typename B::T, typename B::R, capacity> g) {
  const int64_t tiles = (g.length + tile - 1) / tile;  // of one run
#pragma unroll 1
  for (int64_t i = blockIdx.x; i < runs * tiles; i += gridDim.x) {
    const int64_t run = i / tiles, begin = i % tiles * tile;
    const int64_t group = run % g.count, at = (run / g.count * g.all + g.first + group) * g.length + begin;
    const int64_t count = begin + tile < g.length ? tile : g.length - begin;
    B::span(g.constants, g.row[group], g.degree, x + at, y + at, count, threadIdx.x, blockDim.x);
  }
}

// Short runs, down to one element: neighbouring threads need different rows, which lie in shared memory.
template <Dtype dtype, Kind kind, Mode mode, int capacity, class B = Body<dtype, kind, mode>>
__global__ void elements_kernel(const typename B::E* x, typename B::E* y, int64_t outer,
                                const __grid_constant__ Groups<typename B::T, typename B::R, capacity> g) {
  __shared__ typename B::R row[capacity];
  for (int i = int(threadIdx.x); i < g.count; i += int(blockDim.x)) row[i] = g.row[i];
  __syncthreads();
  const int64_t slice = g.count * g.length, threads = int64_t(gridDim.x) * blockDim.x;
#pragma unroll 1
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < outer * slice; i += threads) {
    const int64_t in = i % slice, at = (i / slice * g.all + g.first) * g.length + in;
    y[at] = B::one(g.constants, row[in / g.length], g.degree, x[at]);
  }
}

}  // namespace opau::OPAU_TARGET
