// CUDA kernel bodies.
//
// Contract
//   x, y      any alignment of an element; equal or not overlapping (no restrict: in place is allowed)
//   count     64 bits; every y is written exactly once, by one thread
//   rows      one row: by value, read through the constant bank. Several: each block copies those it needs to shared memory once
//   traffic   one 16-byte load and one 16-byte store for each pack of the main loop: 2 * count * sizeof(element) bytes, the floor
//   bits      as on the CPU
#pragma once
#include <cstdint>
#include <cstring>

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

#ifdef __CUDA_ARCH__
#define OPAU_DYNAMIC_SHARED(type, name) \
  extern __shared__ uint4 name##_bytes[]; \
  type* name = reinterpret_cast<type*>(name##_bytes)
#elif !defined(OPAU_SHIM)  // nvcc's pass for the host, where the body is not run
#define OPAU_DYNAMIC_SHARED(type, name) type* name = nullptr
#endif

// One row for the whole tensor.
template <class T, class R>
struct Function {
  Constants<T> constants;
  R row;
  int degree;
};

// Division by a number that is known at the launch.
struct Divisor {
  uint32_t value, reciprocal;  // floor(2**32 / value); 2**32 - 1 for 1

  // n < 2**31. The first quotient is at most one too small.
  OPAU_INLINE uint32_t quotient(uint32_t n) const {
    const uint32_t near = uint32_t(uint64_t(n) * reciprocal >> 32);
    return near + (n - near * value >= value);
  }
  OPAU_INLINE uint32_t remainder(uint32_t n) const { return n - quotient(n) * value; }
};

// Runs of `length` neighbours have one row; `groups` runs make a period, and after the last group the first one's comes again.
// The groups are dealt out in slices of `each`, whose rows a block keeps. Piece i of the slice that begins with group f is the
// `span` elements (fewer at the end, `last` in all) from i * stride + f * length: those of one period or, where one slice has all
// groups, of several. So positions in a piece fit 32 bits.
template <class T>
struct Layout {
  Constants<T> constants;
  int degree, groups, each;
  Divisor length, period;  // period: of one slice
  int64_t pieces, span, stride, last;
};

template <class R, int capacity>
struct Rows {
  R row[capacity];
};

// Where an element lies; both kinds say which row it needs, and whether rows scale and shift x.
template <class R>
struct Everywhere {
  static constexpr bool affine = false;
  const R* only;
  static OPAU_INLINE constexpr bool one_row(int) { return true; }
  OPAU_INLINE const R& row() const { return *only; }
  OPAU_INLINE void next() {}
};

// Rows in shared memory, one T left free after every `step` of them: neighbouring threads, whose packs begin `step` runs apart where
// every element has its own row, then find them in different banks.
template <class T, class R, int step>
struct Staged {
  static OPAU_INLINE constexpr int at(int row) { return row * int(sizeof(R) / sizeof(T)) + row / step; }
  static OPAU_INLINE constexpr size_t bytes(int rows) { return size_t(rows) * sizeof(R) + size_t(rows / step + 1) * sizeof(T); }
};

template <class T, class R, int step>
struct Place {
  static constexpr bool affine = true;
  const T* staged;
  int left, length, group, count;  // left: elements of the run from here on

  OPAU_INLINE Place(const T* rows, int groups, const Divisor& run, uint32_t position)
      : staged(rows), length(int(run.value)), group(int(run.quotient(position))), count(groups) {
    left = (group + 1) * length - int(position);
  }
  OPAU_INLINE bool one_row(int neighbours) const { return left >= neighbours; }
  OPAU_INLINE const R& row() const { return *reinterpret_cast<const R*>(staged + Staged<T, R, step>::at(group)); }
  OPAU_INLINE void next() {
    if (--left) return;
    left = length;
    if (++group == count) group = 0;
  }
};

// To the left by one, with fixed indices: an array that is indexed at run time would lie in local memory.
template <int N, class T>
OPAU_INLINE void rotate(T* values) {
  const T first = values[0];
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
  using W = Wide<O, N>;
  using V = typename W::V;
  using Where = Place<T, R, N>;
  using Shared = Staged<T, R, N>;

  struct alignas(16) Pack {
    E element[N];
  };
  // By uint4, one instruction each; a plain store is taken apart where branches meet before it.
  static OPAU_INLINE Pack load(const E* x) {
    const uint4 bytes = *reinterpret_cast<const uint4*>(x);
    Pack out;
    memcpy(&out, &bytes, sizeof(out));
    return out;
  }
  static OPAU_INLINE void store(E* y, const Pack& pack) {
    uint4 bytes;
    memcpy(&bytes, &pack, sizeof(bytes));
#ifdef __CUDA_ARCH__
    __stwb(reinterpret_cast<uint4*>(y), bytes);
#else
    *reinterpret_cast<uint4*>(y) = bytes;
#endif
  }

  template <class P>
  static OPAU_INLINE E one(const Constants<T>& k, const P& place, int degree, E element) {
    const R& row = place.row();
    const T x = at<P>(row, Element::get(element));
    T y = ordinary<O, kind, mode>(k, row, degree, x);
    if (O::abs(x) > k.limit) y = scaled<O, mode>(k, row, x);
    return Element::put(y);
  }

  template <class P>
  static OPAU_INLINE Pack pack(const Constants<T>& k, P place, int degree, const Pack& in) {
    V x = W::each([&](int i) { return Element::get(in.element[i]); }), y;
    if (place.one_row(N)) {
      const R& row = place.row();
      x = W::each([&](int i) { return at<P>(row, x.lane[i]); });
      y = ordinary<W, kind, mode>(k, row, degree, x);
    } else {
      y = mixed(k, place, degree, &x);
    }
    bool beyond = false;
    for (int i = 0; i < N; ++i) beyond = beyond || O::abs(x.lane[i]) > k.limit;
    if (beyond) replace(k, place, x, &y);
    Pack out;
    for (int i = 0; i < N; ++i) out.element[i] = Element::put(y.lane[i]);
    return out;
  }

  // Where the activation is evaluated.
  template <class P>
  static OPAU_INLINE T at(const R& row, T x) {
    return P::affine ? O::fma(x, row.scale, row.shift) : x;
  }

  // A pack that reaches over the end of a run.
  template <class P>
  static OPAU_INLINE V mixed(const Constants<T>& k, P place, int degree, V* x) {
    V y;
#pragma unroll
    for (int i = 0; i < N; ++i, place.next()) {
      const R& row = place.row();
      x->lane[i] = at<P>(row, x->lane[i]);
      y.lane[i] = ordinary<O, kind, mode>(k, row, degree, x->lane[i]);
    }
    return y;
  }

  // The rare case: one copy of the scaled evaluation for all elements of a pack, which pass by it one after the other.
  template <class P>
  static OPAU_INLINE void replace(const Constants<T>& k, P place, V x, V* y) {
#pragma unroll 1
    for (int i = 0; i < N; ++i, place.next()) {
      if (O::abs(x.lane[0]) > k.limit) y->lane[0] = scaled<O, mode>(k, place.row(), x.lane[0]);
      rotate<N>(x.lane);
      rotate<N>(y->lane);
    }
  }

  // Elements before the first 16-byte boundary; where x and y are not aligned alike, all of them, to go one by one.
  static OPAU_INLINE int64_t head(const E* x, const E* y, int64_t count) {
    const uintptr_t from = reinterpret_cast<uintptr_t>(x), to = reinterpret_cast<uintptr_t>(y);
    const int64_t before = int64_t(-to % 16 / sizeof(E));
    return from % 16 != to % 16 || before > count ? count : before;
  }
};

// `at(position)` tells an element's place. `thread` of `threads` takes every threads-th pack, two at a time: the second is on its
// way while the first is computed; `together`, both are computed side by side, which pays where hardly any thread has just one
// (16-bit types on an H100: 1.13 times a device copy one by one, 1.04 and 1.00 so). Then its share of head and tail.
template <class B, bool together, class I, class At, class T = typename B::T, class E = typename B::E>
OPAU_INLINE void stride_over(const Constants<T>& k, int degree, const E* x, E* y, I count, I thread, I threads, const At& at) {
  constexpr I N = B::N;
  const I head = I(B::head(x, y, count)), packs = (count - head) / N, rest = count - packs * N;
#pragma unroll 1
  for (I i = thread; i < packs; i += 2 * threads) {
    const I one = head + i * N, two = one + threads * N;
    const bool both = packs - i > threads;
    const typename B::Pack first = B::load(x + one), second = both ? B::load(x + two) : first;
    const typename B::Pack done = B::pack(k, at(one), degree, first);
    if constexpr (together) {
      const typename B::Pack more = B::pack(k, at(both ? two : one), degree, second);
      B::store(y + one, done);
      if (both) B::store(y + two, more);
    } else {
      B::store(y + one, done);
      if (both) B::store(y + two, B::pack(k, at(two), degree, second));
    }
  }
#pragma unroll 1
  for (I i = thread; i < rest; i += threads) {
    const I position = i < head ? i : i + packs * N;
    y[position] = B::one(k, at(position), degree, x[position]);
  }
}

template <Dtype dtype, Kind kind, Mode mode, class B = Body<dtype, kind, mode>>
__global__ void shared_kernel(const typename B::E* x, typename B::E* y, int64_t count,
                              const __grid_constant__ Function<typename B::T, typename B::R> f) {
  const int64_t thread = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, threads = int64_t(gridDim.x) * blockDim.x;
  stride_over<B, true, int64_t>(f.constants, f.degree, x, y, count, thread, threads, [&](int64_t) { return Everywhere<typename B::R>{&f.row}; });
}

template <class B, class T = typename B::T, class R = typename B::R>
__device__ __forceinline__ void stage(T* to, const R* from, int count) {
  constexpr int each = int(sizeof(R) / sizeof(T));
  const T* values = reinterpret_cast<const T*>(from);
  const int all = count * each, step = int(blockDim.x * blockDim.y);
#pragma unroll 4
  for (int i = int(threadIdx.y * blockDim.x + threadIdx.x); i < all; i += step) {
    to[B::Shared::at(i / each) + i % each] = values[i];
  }
  __syncthreads();
}

// blockIdx.z: the slice; blockIdx.y and threadIdx.y: the piece; blockIdx.x and threadIdx.x: the pack.
template <class B, class T = typename B::T, class E = typename B::E, class R = typename B::R>
__device__ __forceinline__ void pieces(const E* x, E* y, const Layout<T>& l, const R* rows, T* staged) {
  const int first = int(blockIdx.z) * l.each, count = l.groups - first < l.each ? l.groups - first : l.each;
  stage<B>(staged, rows + first, count);
  const int thread = int(blockIdx.x * blockDim.x + threadIdx.x), threads = int(gridDim.x * blockDim.x);
  const int64_t begin = int64_t(first) * l.length.value, step = int64_t(gridDim.y) * blockDim.y;
  const int64_t span = count == l.each ? l.span : int64_t(count) * l.length.value;
#pragma unroll 1
  for (int64_t i = int64_t(blockIdx.y) * blockDim.y + threadIdx.y; i < l.pieces; i += step) {
    const int64_t at = i * l.stride + begin, size = i + 1 < l.pieces || l.last >= span ? span : l.last;
    stride_over<B, false, int>(l.constants, l.degree, x + at, y + at, int(size), thread, threads, [&](int position) {
      return typename B::Where(staged, count, l.length, l.period.remainder(uint32_t(position)));
    });
  }
}

// Rows by value. Neighbouring threads may need different ones, which the constant bank would serve one after the other: hence the
// shared memory. They are copied through the parameters' generic address, which is read like global memory, for the same reason.
template <Dtype dtype, Kind kind, Mode mode, int capacity, class B = Body<dtype, kind, mode>>
__global__ void few_groups_kernel(const typename B::E* x, typename B::E* y, const __grid_constant__ Layout<typename B::T> layout,
                                  const __grid_constant__ Rows<typename B::R, capacity> rows) {
  alignas(16) __shared__ unsigned char bytes[B::Shared::bytes(capacity)];
  const typename B::R* from = rows.row;
#ifdef __CUDA_ARCH__
  asm("" : "+l"(from));
#endif
  pieces<B>(x, y, layout, from, reinterpret_cast<typename B::T*>(bytes));
}

// Rows in device memory, where they were put once.
template <Dtype dtype, Kind kind, Mode mode, class B = Body<dtype, kind, mode>>
__global__ void many_groups_kernel(const typename B::E* x, typename B::E* y, const __grid_constant__ Layout<typename B::T> layout,
                                   const typename B::R* rows) {
  OPAU_DYNAMIC_SHARED(typename B::T, staged);
  pieces<B>(x, y, layout, rows, staged);
}

}  // namespace opau::OPAU_TARGET
