// CUDA kernel bodies of training: rows from coefficients on the device, and the backward pass.
//
// Contract
//   traffic   x and g read, dx written, 16 bytes at a time where runs and addresses allow: the floor, 12 bytes an element in float32;
//             and 8 bytes for each sum of a block's column
//   sums      each thread's in registers, for at most kThreadElements elements; then in double: a block's by one thread for each
//             sum, in the order of its threads; all blocks' by `total_kernel`. No atomics: the same bits at every run, on every device
//   dx        the CPU kernels' bits
//   barriers  one in a kernel, after threads have filled shared memory
#pragma once
#include "cuda/kernels.cuh"
#include "opau/gradient.hpp"
#include "opau/rows.hpp"

namespace opau::OPAU_TARGET {

constexpr int kThreadElements = 128;
constexpr int kTotalThreads = 128;

template <class T, int C, int D>
OPAU_INLINE void keep(const Constants<T>&, const FullRow<T>& full, Row<T, C, D>* row) {
  for (int i = 0; i < C; ++i) row->c[i] = full.c[i];
  for (int i = 0; i < D; ++i) row->d[i] = full.d[i];
  for (int i = 0; i <= kUnrolledK; ++i) row->p[i] = full.p[i];
  row->top = full.top;
  row->scale = full.scale;
  row->shift = full.shift;
}
template <class T>
OPAU_INLINE void keep(const Constants<T>& k, const FullRow<T>& full, FullGradientRow<T>* row) {
  static_cast<FullRow<T>&>(*row) = full;
  complete(k, row);
}

// Coefficients in device memory: rows x size values.
template <class T>
struct Given {
  const T* numerator;
  const T* denominator;
  bool numerator_rows, denominator_rows;  // a row for each group, else one
};

// One thread a group. R: what a kernel reads.
template <class T, class R>
__global__ void prepare_kernel(const __grid_constant__ Given<T> from, const __grid_constant__ Definition def,
                               const __grid_constant__ Constants<T> k, int64_t groups, R* rows) {
  for (int64_t group = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; group < groups; group += int64_t(gridDim.x) * blockDim.x) {
    FullRow<T> full;
    fill_row(def, from.numerator + (from.numerator_rows ? group * def.c_size : 0),
             from.denominator + (from.denominator_rows ? group * def.d_size : 0), &full);
    R row;
    keep(k, full, &row);
    rows[group] = row;
  }
}

// How elements are dealt out. Column n has its own row, n / repeat % groups, and its own sums. It begins at element n * width, and has
// `elements` of them: runs of `width`, `period` apart. A block does `chunk` of the elements of `across` columns.
struct Deal {
  int64_t columns, width, period, elements, count;  // count: of the tensor, where the last runs may end early
  int64_t repeat, groups, chunk, chunks;
  int across;
  Divisor run;  // width, where positions in a column fit 31 bits; else value 0
};

// What the closed forms read, in registers; Kind::general reads the row where it lies.
template <class T, Kind kind>
struct Kept {
  T d[kUnrolledL + 1], p[kUnrolledK + 1], slope[kUnrolledK], pull[kUnrolledL], third;
  OPAU_INLINE explicit Kept(const FullGradientRow<T>& row) : third(row.third) {
    for (int i = 0; i <= kUnrolledL; ++i) d[i] = row.d[i];
    for (int i = 0; i <= kUnrolledK; ++i) p[i] = row.p[i];
    for (int i = 0; i < kUnrolledK; ++i) slope[i] = row.slope[i];
    for (int i = 0; i < kUnrolledL; ++i) pull[i] = row.pull[i];
  }
  OPAU_INLINE const Kept& get() const { return *this; }
};
template <class T>
struct Kept<T, Kind::general> {
  const FullGradientRow<T>& row;
  OPAU_INLINE explicit Kept(const FullGradientRow<T>& from) : row(from) {}
  OPAU_INLINE const FullGradientRow<T>& get() const { return row; }
};

template <Dtype dtype, Kind kind, Mode mode, bool packed>
struct BackwardBody {
  using B = Body<dtype, kind, mode>;
  using Element = typename B::Element;
  using E = typename B::E;
  using T = typename B::T;
  using O = typename B::O;
  static constexpr int kThreads = kind == Kind::general ? 128 : 256;
  static constexpr int kBlocksTogether = sizeof(T) == 4 ? 768 / kThreads : 1;  // on a multiprocessor: leaves 80 registers a thread
  static constexpr int kCount = kind == Kind::general ? kSums : kClosedSums;
  static constexpr int N = packed ? B::N : 1;

  struct Pack {
    E element[N];
  };
  static OPAU_INLINE Pack load(const E* from) {
    Pack out;
    if constexpr (packed) {
      const typename B::Pack pack = B::load(from);
      for (int i = 0; i < N; ++i) out.element[i] = pack.element[i];
    } else {
      out.element[0] = *from;
    }
    return out;
  }
  static OPAU_INLINE void store(E* to, const Pack& pack) {
    if constexpr (packed) {
      typename B::Pack out;
      for (int i = 0; i < N; ++i) out.element[i] = pack.element[i];
      B::store(to, out);
    } else {
      *to = pack.element[0];
    }
  }

  // This thread's part of the work.
  struct Part {
    int64_t base, next, step, end;  // elements next, next + step, .. of the column that begins at `base`

    OPAU_INLINE Part(const Deal& deal, int64_t column, int64_t piece) : base(column * deal.width) {
      const int member = int(threadIdx.x) / deal.across;
      next = piece * deal.chunk + member * N;
      step = int64_t(int(blockDim.x) / deal.across) * N;
      const int64_t last = (piece + 1) * deal.chunk;
      end = last < deal.elements ? last : deal.elements;
    }
    OPAU_INLINE int64_t position(const Deal& deal, int64_t i) const {
      if (deal.width == deal.elements) return base + i;
      const int64_t run = deal.run.value ? int64_t(deal.run.quotient(uint32_t(i))) : i / deal.width;
      return base + run * deal.period + (i - run * deal.width);
    }
  };

  static OPAU_INLINE E one(const Constants<T>& k, const Kept<T, kind>& row, int degree, E from, E gradient_from, bool counts, T* kept, bool* far) {
    T x = Element::get(from), g = counts ? Element::get(gradient_from) : T(0);
    if (O::abs(x) > k.limit) {  // `replace` does it again
      *far = true;
      x = k.limit;
      g = 0;
    }
    return Element::put(gradient<O, kind, mode, true>(k, row.get(), degree, x, g, kept));
  }

  static OPAU_INLINE bool ordinary_ones(const Constants<T>& k, const Deal& deal, Part part, const Kept<T, kind>& row, int degree,
                                        const E* x, const E* g, E* dx, T* kept) {
    bool far = false;
#pragma unroll 1
    for (int64_t i = part.next; i < part.end; i += part.step) {
      const int64_t at = part.position(deal, i);
      if (at >= deal.count) break;
      const int here = part.end - i < N ? int(part.end - i) : N;
      Pack in, gradient_in, out;
      if (here == N) {
        in = load(x + at);
        gradient_in = load(g + at);
      } else {  // filled up with the first one, which a gradient of 0 takes out of the sums
        for (int n = 0; n < N; ++n) in.element[n] = x[at + (n < here ? n : 0)], gradient_in.element[n] = g[at + (n < here ? n : 0)];
      }
#pragma unroll
      for (int n = 0; n < N; ++n) out.element[n] = one(k, row, degree, in.element[n], gradient_in.element[n], n < here, kept, &far);
      if (dx && here == N) store(dx + at, out);
      if (dx && here < N) {
        for (int n = 0; n < N; ++n) {
          if (n < here) dx[at + n] = out.element[n];
        }
      }
    }
    return far;
  }

  // The rare elements beyond the limit; their sums by degree into this thread's column of shared memory.
  static OPAU_FUNCTION void replace(const Constants<T>& k, const Deal& deal, const Part& part, const FullGradientRow<T>& row, int degree,
                                    const E* x, const E* g, E* dx, double* mine, int stride) {
    double sums[kSums];
    for (int n = 0; n < kSums; ++n) sums[n] = 0;
    for (int64_t i = part.next; i < part.end; i += part.step) {
      for (int64_t n = i; n < i + N && n < part.end; ++n) {
        const int64_t at = part.position(deal, n);
        if (at >= deal.count) break;
        const T value = Element::get(x[at]);
        if (!(O::abs(value) > k.limit)) continue;
        const double slope = far_element<mode>(k, row, degree, value, T(Element::get(g[at])), sums);
        if (dx) dx[at] = Element::put(T(slope));
      }
    }
    for (int n = 0; n <= degree; ++n) mine[n * stride] += sums[n], mine[(degree + 1 + n) * stride] += sums[kRowSize + n];
  }

  // Shared memory: value n of thread i at [n * blockDim.x + i]; n up to `degree` for the numerator, then the denominator.
  static OPAU_INLINE void fill(const Constants<T>& k, const Deal& deal, const FullGradientRow<T>* rows, int degree, const E* x, const E* g, E* dx,
                               double* shared) {
    const int stride = int(blockDim.x), sums = 2 * (degree + 1);
    double* const mine = shared + threadIdx.x;
    for (int n = 0; n < sums; ++n) mine[n * stride] = 0;
    const int64_t tile = blockIdx.x / deal.chunks, piece = blockIdx.x % deal.chunks;
    const int64_t column = tile * deal.across + int(threadIdx.x) % deal.across;
    if (column >= deal.columns) return;
    const FullGradientRow<T>& row = rows[column / deal.repeat % deal.groups];
    T kept[kCount];
    for (int n = 0; n < kCount; ++n) kept[n] = 0;
    const Part part(deal, column, piece);
    const bool far = ordinary_ones(k, deal, part, Kept<T, kind>(row), degree, x, g, dx, kept);
    by_degree<kind>(k, degree, [&](int n) { return double(kept[n]); }, [&](int n, double value) {
      const int own = n < kRowSize ? n : n - kRowSize;
      if (own <= degree) mine[(n < kRowSize ? own : degree + 1 + own) * stride] += value;
    });
    if (far) replace(k, deal, part, row, degree, x, g, dx, mine, stride);
  }

  // partial: value n of piece q of column c at [(c * chunks + q) * 2 * (degree + 1) + n].
  static OPAU_INLINE void collect(const Deal& deal, int degree, const double* shared, double* partial) {
    const int stride = int(blockDim.x), sums = 2 * (degree + 1), members = stride / deal.across;
    const int64_t tile = blockIdx.x / deal.chunks, piece = blockIdx.x % deal.chunks;
    for (int task = int(threadIdx.x); task < sums * deal.across; task += stride) {
      const int n = task / deal.across, side = task % deal.across;
      const int64_t column = tile * deal.across + side;
      if (column >= deal.columns) continue;
      const double* from = shared + n * stride + side;
      double total[4] = {};  // four chains of additions side by side; members is a multiple of 4
      for (int m = 0; m < members; m += 4) {
        for (int i = 0; i < 4; ++i) total[i] += from[(m + i) * deal.across];
      }
      partial[(column * deal.chunks + piece) * sums + n] = (total[0] + total[1]) + (total[2] + total[3]);
    }
  }
};

template <Dtype dtype, Kind kind, Mode mode, bool packed, class B = BackwardBody<dtype, kind, mode, packed>>
__global__ void __launch_bounds__(B::kThreads, B::kBlocksTogether)
    backward_kernel(const typename B::E* x, const typename B::E* g, typename B::E* dx, const __grid_constant__ Constants<typename B::T> k,
                    const __grid_constant__ Deal deal, const FullGradientRow<typename B::T>* rows, int degree, double* partial) {
  OPAU_DYNAMIC_SHARED(double, shared);
  B::fill(k, deal, rows, degree, x, g, dx, shared);
  __syncthreads();
  if (partial) B::collect(deal, degree, shared, partial);
}

// Where the partial sums of a row lie: those of `length` neighbouring columns, `period` columns apart, `times` of them.
struct Shares {
  int64_t length, period, times, chunks;
};

// One block for each coefficient: all numerators, then all denominators, into gradients of the coefficients' shapes.
template <class T>
__global__ void total_kernel(const double* partial, const __grid_constant__ Given<T> from, const __grid_constant__ Definition def, int degree,
                             int64_t groups, const __grid_constant__ Shares shares, T* numerator, T* denominator) {
  alignas(16) __shared__ unsigned char bytes[kTotalThreads * sizeof(double)];
  double* const shared = reinterpret_cast<double*>(bytes);
  const int64_t tops = (from.numerator_rows ? groups : 1) * def.c_size;
  const bool top = int64_t(blockIdx.x) < tops;
  const int64_t index = top ? blockIdx.x : blockIdx.x - tops;
  const int size = top ? def.c_size : def.d_size, i = int(index % size), n = top ? i : i + def.first, sums = 2 * (degree + 1);
  const bool own = top ? from.numerator_rows : from.denominator_rows;
  const int64_t first = own ? index / size : 0, last = own ? first + 1 : groups;
  double total = 0;
  for (int64_t group = first; group < last; ++group) {
    const int64_t all = shares.times * shares.length * shares.chunks;
    for (int64_t item = threadIdx.x; item < all; item += kTotalThreads) {
      const int64_t row = item / shares.chunks, column = row / shares.length * shares.period + group * shares.length + row % shares.length;
      total += partial[(column * shares.chunks + item % shares.chunks) * sums + (top ? n : degree + 1 + n)];
    }
  }
  shared[threadIdx.x] = total;
  __syncthreads();
  if (threadIdx.x) return;
  double parts[4] = {};
  for (int m = 0; m < kTotalThreads; m += 4) {
    for (int j = 0; j < 4; ++j) parts[j] += shared[m + j];
  }
  const double sum = (parts[0] + parts[1]) + (parts[2] + parts[3]);
  if (top) {
    numerator[index] = T(sum * def.leading[n]);
  } else {
    const double slope = weight_slope(def, from.denominator[index], n);
    denominator[index] = slope != 0 ? T(sum * slope) : T(0);  // the sum may be infinite where the slope is 0
  }
}

}  // namespace opau::OPAU_TARGET
