// Loops over elements, for whichever instruction set the including file is compiled for.
#pragma once
#include <type_traits>
#include <utility>

#include "opau/evaluate.hpp"
#include "opau/kernels.hpp"
#include "opau/value_scalar.hpp"

namespace opau::OPAU_TARGET {

// Vectors per iteration: enough to share the constants' loads and the test of the range.
#ifndef OPAU_UNROLL
#define OPAU_UNROLL 2
#endif

// A vector of what is computed in.
template <class O>
OPAU_INLINE typename O::V whole(const typename O::T* p) {
  return Io<O, sizeof(typename O::T) == 4 ? Dtype::float32 : Dtype::float64>::load(p);
}

// Whether two vectors can be loaded in another order than that of their elements, which is cheaper.
template <class IO, class Vector, class = void>
inline constexpr bool has_pairs = false;
template <class IO, class Vector>
inline constexpr bool has_pairs<IO, Vector, std::void_t<decltype(IO::load(nullptr, std::declval<Vector (&)[2]>()))>> = true;

// The rare case, kept out of the loop: lanes beyond the limit are evaluated again, the others keep their value.
template <class O, Mode mode, class T>
[[gnu::noinline]] typename O::V replaced(const Constants<T>& k, const FullRow<T>& row, typename O::V x, typename O::V y) {
  return O::select(O::less(O::set(k.limit), O::abs(x)), scaled<O, mode>(k, row, x), y);
}

// What happens to x first: nothing; the row's affine; one of each element's own; one of each lane's own.
enum class Affine { none, row, tile, vector };

template <class O, Dtype dtype, Kind kind, Mode mode, int size, Affine affine>
class RowLoop {
  using T = typename O::T;
  using IO = Io<O, dtype>;
  using E = typename IO::Element;
  using Vector = typename O::V;
  static constexpr int W = O::kWidth;
  template <int U>
  static constexpr bool kPairs = U == 2 && has_pairs<IO, Vector> && (affine == Affine::none || affine == Affine::row);

 public:
  static void run(const Constants<T>& k, const FullRow<T>& row, int degree, const void* from, void* to, int64_t count, bool stream) {
    const E* x = static_cast<const E*>(from);
    E* y = static_cast<E*>(to);
    if (stream) {
      const int64_t head = until_aligned(y, count);
      const RowLoop loop(k, row, degree, nullptr, nullptr);
      loop.partial(x, y, 0, head);
      loop.template all<true>(x, y, head, count);
      O::fence();
    } else {
      RowLoop(k, row, degree, nullptr, nullptr).template all<false>(x, y, 0, count);
    }
  }

  static void tile(const Constants<T>& k, const FullRow<T>& row, int degree, const T* scale, const T* shift, const void* x, void* y,
                   int64_t count) {
    RowLoop(k, row, degree, scale, shift).template all<false>(static_cast<const E*>(x), static_cast<E*>(y), 0, count);
  }

 private:
  // Copies: stores to y could change the originals for all the compiler knows, and it would load them again each time.
  const Constants<T> k_;
  const FullRow<T> row_;
  const int degree_;
  const Constants<T>& k_rare_;
  const FullRow<T>& row_rare_;
  const T* const scale_;
  const T* const shift_;

  RowLoop(const Constants<T>& k, const FullRow<T>& row, int degree, const T* scale, const T* shift)
      : k_(k), row_(row), degree_(degree), k_rare_(k), row_rare_(row), scale_(scale), shift_(shift) {}

  static int64_t until_aligned(const E* y, int64_t count) {
    const int64_t bytes = W * sizeof(E), over = int64_t(reinterpret_cast<uintptr_t>(y) % bytes);
    const int64_t head = over ? (bytes - over) / int64_t(sizeof(E)) : 0;
    return head < count ? head : count;
  }

  template <bool stream>
  OPAU_INLINE void all(const E* x, E* y, int64_t i, int64_t count) const {
    // The last vector reaches back over elements that are done, whose values it writes again; read before they are, for y == x.
    const bool reaching = !stream && affine != Affine::vector && count - i > W && (count - i) % W;
    Vector last[1];
    if (reaching) last[0] = IO::load(x + count - W);
    for (; i + OPAU_UNROLL * W <= count; i += OPAU_UNROLL * W) block<OPAU_UNROLL, stream>(x + i, y + i, i);
    for (; i + W <= count; i += W) block<1, stream>(x + i, y + i, i);
    if (reaching) {
      loaded<1, stream>(last, y + count - W, count - W);
    } else {
      partial(x + i, y + i, i, count - i);
    }
  }

  // `at`: the index of the first element.
  template <int U, bool stream>
  OPAU_INLINE void block(const E* x, E* y, int64_t at) const {
    Vector in[U];
    if constexpr (kPairs<U>) {
      IO::load(x, in);
    } else {
      for (int u = 0; u < U; ++u) in[u] = IO::load(x + u * W);
    }
    loaded<U, stream>(in, y, at);
  }

  template <int U, bool stream>
  OPAU_INLINE void loaded(Vector* in, E* y, int64_t at) const {
    Vector out[U];
    if constexpr (affine == Affine::row) {
      for (int u = 0; u < U; ++u) in[u] = O::fma(in[u], O::set(row_.scale), O::set(row_.shift));
    } else if constexpr (affine == Affine::vector) {
      for (int u = 0; u < U; ++u) in[u] = O::fma(in[u], whole<O>(scale_), whole<O>(shift_));
    } else if constexpr (affine == Affine::tile) {
      for (int u = 0; u < U; ++u) in[u] = O::fma(in[u], whole<O>(scale_ + at + u * W), whole<O>(shift_ + at + u * W));
    }
    for (int u = 0; u < U; ++u) out[u] = ordinary<O, kind, mode, size>(k_, row_, degree_, in[u]);
    auto beyond = O::less(O::set(k_.limit), O::abs(in[0]));
    for (int u = 1; u < U; ++u) beyond = O::either(beyond, O::less(O::set(k_.limit), O::abs(in[u])));
    if (__builtin_expect(O::any(beyond), 0)) {
      for (int u = 0; u < U; ++u) out[u] = replaced<O, mode>(k_rare_, row_rare_, in[u], out[u]);
    }
    if constexpr (kPairs<U>) {
      stream ? IO::stream(y, out) : IO::store(y, out);
    } else {
      for (int u = 0; u < U; ++u) stream ? IO::stream(y + u * W, out[u]) : IO::store(y + u * W, out[u]);
    }
  }

  // Fewer than W elements, through a buffer: the same operations as in the middle.
  OPAU_INLINE void partial(const E* x, E* y, int64_t at, int64_t count) const {
    if (count <= 0) return;
    E in[W] = {}, out[W];
    for (int64_t i = 0; i < count; ++i) in[i] = x[i];
    block<1, false>(in, out, at);
    for (int64_t i = 0; i < count; ++i) y[i] = out[i];
  }
};

// A row of coefficients as vectors: of one row, the same in each lane, or of lanes side by side.
template <class O, Kind kind, int size>
struct VectorRow {
  static constexpr int C = kind == Kind::general ? kRowSize : 1, P = kUnrolled[size].k + 1;
  static constexpr int D = kind == Kind::general ? kRowSize : kUnrolled[size].l + 1;
  typename O::V c[C], d[D], p[P], scale, shift;

  // value(i): that of Lanes' index i.
  template <class F>
  OPAU_INLINE VectorRow(int degree, const F& value) : scale(value(kLaneScale)), shift(value(kLaneScale + 1)) {
    c[0] = value(0);
    d[0] = value(kRowSize);
    if constexpr (kind == Kind::general) {
      for (int i = 1; i <= degree; ++i) c[i] = value(i);
    } else {
      for (int i = 0; i < P; ++i) p[i] = value(2 * kRowSize + i);
    }
    for (int i = 1; i < (kind == Kind::general ? degree + 1 : D); ++i) d[i] = value(kRowSize + i);
  }
};

// Each lane has its own coefficients.
template <class O, Dtype dtype, Kind kind, Mode mode, int size>
class LaneLoop {
  using T = typename O::T;
  using IO = Io<O, dtype>;
  using E = typename IO::Element;
  using Scalar = ScalarOps<T>;
  static constexpr int W = O::kWidth;

 public:
  static void run(const Constants<T>& k, const Lanes<T>& lanes, int degree, const void* from, void* to, int64_t channel, int64_t count) {
    const E* x = static_cast<const E*>(from);
    E* y = static_cast<E*>(to);
    const LaneLoop loop(k, lanes, degree);
    int64_t i = 0;
    for (; i + W <= count; i += W) loop.block(x + i, y + i, channel + i, W);
    if (i == count) return;
    E in[W] = {}, out[W];
    for (int64_t j = i; j < count; ++j) in[j - i] = x[j];
    loop.block(in, out, channel + i, int(count - i));
    for (int64_t j = i; j < count; ++j) y[j] = out[j - i];
  }

 private:
  const Constants<T>& k_;
  const T* const values_;
  const int64_t stride_;
  const int degree_;
  const Lanes<T>& lanes_;

  LaneLoop(const Constants<T>& k, const Lanes<T>& lanes, int degree)
      : k_(k), values_(lanes.values), stride_(lanes.stride), degree_(degree), lanes_(lanes) {}

  // The tables are padded by one vector, so that the last channels can be read whole.
  OPAU_INLINE void block(const E* x, E* y, int64_t channel, int used) const {
    const T* at = values_ + channel;
    const VectorRow<O, kind, size> row(degree_, [&](int i) { return whole<O>(at + i * stride_); });
    const typename O::V in = O::fma(IO::load(x), row.scale, row.shift);
    IO::store(y, ordinary<O, kind, mode, size>(k_, row, degree_, in));
    if (__builtin_expect(O::any(O::less(O::set(k_.limit), O::abs(in))), 0)) replace(k_, lanes_, in, y, channel, used);
  }

  // One lane at a time: the number of steps differs.
  [[gnu::noinline]] static void replace(const Constants<T>& k, const Lanes<T>& lanes, typename O::V in, E* y, int64_t channel, int used) {
    T x[W];
    Io<O, sizeof(T) == 4 ? Dtype::float32 : Dtype::float64>::store(x, in);
    for (int i = 0; i < used; ++i) {
      if (Scalar::abs(x[i]) > k.limit) Io<Scalar, dtype>::store(y + i, scaled<Scalar, mode>(k, lanes.row(channel + i), x[i]));
    }
  }
};

// Runs of a vector and more, one after the other, each with the next row.
template <class O, Dtype dtype, Kind kind, Mode mode, int size>
class RunLoop {
  using T = typename O::T;
  using IO = Io<O, dtype>;
  using E = typename IO::Element;
  using Vector = typename O::V;
  static constexpr int W = O::kWidth;

 public:
  static void run(const Constants<T>& k, const FullRow<T>* rows, int64_t groups, int64_t first, int degree, const void* from, void* to,
                  int64_t length, int64_t runs) {
    const E* x = static_cast<const E*>(from);
    E* y = static_cast<E*>(to);
    const RunLoop loop(k, degree);
    for (int64_t group = first; runs > 0; --runs, x += length, y += length) {
      loop.one(rows[group], x, y, length);
      if (++group == groups) group = 0;
    }
  }

 private:
  const Constants<T> k_;
  const int degree_;
  const Constants<T>& k_rare_;

  RunLoop(const Constants<T>& k, int degree) : k_(k), degree_(degree), k_rare_(k) {}

  // Vectors two at a time. The last reaches back into the one beside it, never further: both are read before either is written.
  OPAU_INLINE void one(const FullRow<T>& from, const E* x, E* y, int64_t length) const {
    const VectorRow<O, kind, size> row(degree_, [&](int i) { return O::set(value(from, i)); });
    const int64_t vectors = (length + W - 1) / W;
    int64_t i = 0;
    if (vectors % 2) {
      block<1>(row, from, x, y, 0);
      i = W;
    }
    for (; i + 2 * W <= length; i += 2 * W) block<2>(row, from, x + i, y + i, W);
    if (i < length) block<2>(row, from, x + i, y + i, length - W - i);
  }

  static OPAU_INLINE T value(const FullRow<T>& row, int i) {
    return i == kLaneScale       ? row.scale
           : i == kLaneScale + 1 ? row.shift
           : i >= 2 * kRowSize   ? row.p[i - 2 * kRowSize]
           : i >= kRowSize       ? row.d[i - kRowSize]
                                 : row.c[i];
  }

  // Vectors at 0 and at `second`.
  template <int U>
  OPAU_INLINE void block(const VectorRow<O, kind, size>& row, const FullRow<T>& rare, const E* x, E* y, int64_t second) const {
    Vector in[U], out[U];
    for (int u = 0; u < U; ++u) in[u] = O::fma(IO::load(x + u * second), row.scale, row.shift);
    for (int u = 0; u < U; ++u) out[u] = ordinary<O, kind, mode, size>(k_, row, degree_, in[u]);
    auto beyond = O::less(O::set(k_.limit), O::abs(in[0]));
    for (int u = 1; u < U; ++u) beyond = O::either(beyond, O::less(O::set(k_.limit), O::abs(in[u])));
    if (__builtin_expect(O::any(beyond), 0)) {
      for (int u = 0; u < U; ++u) out[u] = replaced<O, mode>(k_rare_, rare, in[u], out[u]);
    }
    for (int u = 0; u < U; ++u) IO::store(y + u * second, out[u]);
  }
};

// Below degree 4 the closed forms are the same in every symmetric basis. Portable code stays with the largest size: it is what the
// others' bits are held against.
template <class O, Dtype dtype, Kind kind, Mode mode, int size>
constexpr typename KernelSet<typename O::T>::Functions functions() {
  constexpr int own = O::kWidth > 1 && in_every_size(kind, mode) ? size : 0;
  constexpr Kind as = own > 0 && kind == Kind::symmetric ? Kind::hermite : kind;
  return {RowLoop<O, dtype, as, mode, own, Affine::none>::run, RowLoop<O, dtype, as, mode, own, Affine::row>::run,
          RowLoop<O, dtype, as, mode, own, Affine::tile>::tile, RowLoop<O, dtype, as, mode, own, Affine::vector>::tile,
          LaneLoop<O, dtype, as, mode, own>::run, RunLoop<O, dtype, as, mode, own>::run};
}

template <class O, Dtype dtype, Kind kind, Mode... modes>
constexpr void fill(KernelSet<typename O::T>& set, tables::ModeList<modes...>) {
  static_assert(kSizes == 3);
  ((set.of[int(kind)][int(modes)][0] = functions<O, dtype, kind, modes, 0>(),
    set.of[int(kind)][int(modes)][1] = functions<O, dtype, kind, modes, 1>(),
    set.of[int(kind)][int(modes)][2] = functions<O, dtype, kind, modes, 2>()), ...);
}

template <class O, Dtype dtype>
constexpr KernelSet<typename O::T> kernel_set() {
  KernelSet<typename O::T> set{};
  set.width = O::kWidth;
  fill<O, dtype, Kind::power>(set, tables::Modes{});
  fill<O, dtype, Kind::hermite>(set, tables::Modes{});
  fill<O, dtype, Kind::symmetric>(set, tables::Modes{});
  fill<O, dtype, Kind::general>(set, tables::Modes{});
  return set;
}

template <class FloatOps_, class DoubleOps_>
constexpr InstructionSet instruction_set(const char* name, bool (*available)(), const InstructionSet* again = nullptr) {
  return {name,
          available,
          kernel_set<FloatOps_, Dtype::float32>(),
          kernel_set<FloatOps_, Dtype::float16>(),
          kernel_set<FloatOps_, Dtype::bfloat16>(),
          kernel_set<DoubleOps_, Dtype::float64>(),
          again};
}

}  // namespace opau::OPAU_TARGET
