// Loops of the gradient, for whichever instruction set the including file is compiled for.
#pragma once
#include "opau/gradient.hpp"
#include "opau/gradient_kernels.hpp"

namespace opau::OPAU_TARGET {

// The sums have as many lanes in every instruction set, so that they have the same bits: lane i takes the elements i, i + kLanes, ..
// of a run. Lanes are added up in T for kBlock steps, then in double.
template <class T>
inline constexpr int kSumLanes = 64 / int(sizeof(T));
inline constexpr int kBlock = 128;

template <class O>
OPAU_INLINE typename O::V load_values(const typename O::T* p) {
  return Io<O, sizeof(typename O::T) == 4 ? Dtype::float32 : Dtype::float64>::load(p);
}

template <class O, Dtype dtype, Kind kind, Mode mode, bool wanted>
class GradientLoop {
  using T = typename O::T;
  using IO = Io<O, dtype>;
  using E = typename IO::Element;
  using Vector = typename O::V;
  static constexpr int W = O::kWidth, kLanes = kSumLanes<T>, kParts = kLanes / W;
  static constexpr int kCount = kind == Kind::general ? kSums : kClosedSums;
  static constexpr int kKept = wanted ? kCount : 1;

 public:
  // One row of coefficients.
  static void run(const Constants<T>& k, const FullGradientRow<T>& row, int degree, const Runs& at, double* sums) {
    GradientLoop loop(k, degree, at);
    const FullGradientRow<T> own = row;  // stores could change the original for all the compiler knows
    bool far = false;
    for (int part = 0; part < kParts; ++part) {
      Vector kept[kKept];
      loop.clear(kept);
      int steps = 0;
      for (int64_t r = 0; r < at.runs; ++r) {
        const int64_t end = at.length - at.length % kLanes;
        for (int64_t i = part * W; i < end; i += kLanes) {
          far |= loop.step(own, r * at.stride + i, kept);
          if (++steps == kBlock) loop.flush(kept, part, &steps);
        }
        if (end < at.length) {
          far |= loop.partial(own, r * at.stride + end, int(at.length - end), part, kept);
          if (++steps == kBlock) loop.flush(kept, part, &steps);
        }
      }
      loop.flush(kept, part, &steps);
    }
    if constexpr (wanted) loop.add_lanes(sums);
    if (far) loop.replace(row, sums);
  }

  // Each lane has its own coefficients: lanes first .. first + count, count <= kLanes; at.length == count. sums: kSums for each lane.
  static void lanes(const Constants<T>& k, const GradientLanes<T>& rows, int degree, int64_t first, const Runs& at, double* sums) {
    GradientLoop loop(k, degree, at);
    const int count = int(at.length);
    bool far = false;
    for (int part = 0; part * W < count; ++part) {
      const LaneRow row(rows, degree, first + part * W);
      Vector kept[kKept];
      loop.clear(kept);
      int steps = 0;
      for (int64_t r = 0; r < at.runs; ++r) {
        if (count == kLanes) {
          far |= loop.step(row, r * at.stride + part * W, kept);
        } else {
          far |= loop.partial(row, r * at.stride, count, part, kept);
        }
        if (++steps == kBlock) loop.flush(kept, part, &steps);
      }
      loop.flush(kept, part, &steps);
    }
    for (int i = 0; i < count; ++i) {
      if constexpr (wanted) loop.add_by_degree([&](int s) { return loop.total_[s][i]; }, sums + i * kSums);
      if (far) loop.replace_lane(rows.rows[(first + i) / rows.repeat % rows.groups], i, sums + i * kSums);
    }
  }

 private:
  const Constants<T> k_;
  const int degree_;
  const Runs& at_;
  const E* const x_;
  const E* const g_;
  E* const dx_;
  double total_[kKept][kLanes] = {};
  mutable E unwanted_[kLanes];

  GradientLoop(const Constants<T>& k, int degree, const Runs& at)
      : k_(k), degree_(degree), at_(at), x_(static_cast<const E*>(at.x)), g_(static_cast<const E*>(at.g)), dx_(static_cast<E*>(at.dx)) {}

  struct LaneRow {
    static constexpr int C = kind == Kind::general ? kRowSize : 1, D = kind == Kind::general ? kRowSize : kUnrolledL + 1;
    Vector c[C], d[D], p[kUnrolledK + 1], slope[kUnrolledK], pull[kUnrolledL], third;

    LaneRow(const GradientLanes<T>& rows, int degree, int64_t first) {
      const auto value = [&](int i) { return load_values<O>(rows.values + i * rows.stride + first); };
      if constexpr (kind == Kind::general) {
        for (int i = 0; i <= degree; ++i) c[i] = value(i), d[i] = value(kRowSize + i);
      } else {
        for (int i = 0; i <= kUnrolledL; ++i) d[i] = value(kRowSize + i);
        for (int i = 0; i <= kUnrolledK; ++i) p[i] = value(2 * kRowSize + i);
        for (int i = 0; i < kUnrolledK; ++i) slope[i] = O::mul(O::set(T(i + 1)), p[i + 1]);
        for (int i = 0; i < kUnrolledL; ++i) pull[i] = O::mul(O::set(T(i + 1)), d[i + 1]);
        third = O::set(rows.third);
      }
    }
  };

  static OPAU_INLINE void clear(Vector* kept) {
    if constexpr (wanted) {
      for (int s = 0; s < kCount; ++s) kept[s] = O::set(0);
    }
  }

  template <class R>
  OPAU_INLINE bool step(const R& row, int64_t i, Vector* kept) const {
    return vector(row, x_ + i, g_ + i, dx_ ? dx_ + i : unwanted_, kept);
  }

  // Elements beyond the limit do not count here: `replace` does them again.
  template <class R>
  OPAU_INLINE bool vector(const R& row, const E* from, const E* gradient_from, E* to, Vector* kept) const {
    Vector x = IO::load(from), g = IO::load(gradient_from);
    const auto beyond = O::less(O::set(k_.limit), O::abs(x));
    const bool far = O::any(beyond);
    if (__builtin_expect(far, 0)) {
      g = O::select(beyond, O::set(0), g);
      x = O::select(beyond, O::set(k_.limit), x);
    }
    IO::store(to, gradient<O, kind, mode, wanted>(k_, row, degree_, x, g, kept));
    return far;
  }

  // Fewer than kLanes elements, through a buffer. It is filled up with the last of them, which a gradient of 0 takes out of the sums.
  template <class R>
  OPAU_INLINE bool partial(const R& row, int64_t i, int count, int part, Vector* kept) const {
    if (part * W >= count) return false;
    E x[W], g[W] = {}, dx[W];
    const int here = count - part * W < W ? count - part * W : W;
    for (int j = 0; j < W; ++j) x[j] = x_[i + part * W + (j < here ? j : here - 1)];
    for (int j = 0; j < here; ++j) g[j] = g_[i + part * W + j];
    const bool far = vector(row, x, g, dx, kept);
    for (int j = 0; dx_ && j < here; ++j) dx_[i + part * W + j] = dx[j];
    return far;
  }

  OPAU_INLINE void flush(Vector* kept, int part, int* steps) {
    *steps = 0;
    if constexpr (wanted) {
      T values[kCount][W];
      for (int s = 0; s < kCount; ++s) Io<O, sizeof(T) == 4 ? Dtype::float32 : Dtype::float64>::store(values[s], kept[s]);
      for (int s = 0; s < kCount; ++s) {
        for (int i = 0; i < W; ++i) total_[s][part * W + i] += double(values[s][i]);
      }
      clear(kept);
    }
  }

  template <class F>
  void add_by_degree(const F& total, double* sums) const {
    by_degree<kind>(k_, degree_, total, [&](int i, double value) { sums[i] += value; });
  }

  void add_lanes(double* sums) const {
    const auto total = [&](int s) {
      double lanes[kLanes];
      for (int i = 0; i < kLanes; ++i) lanes[i] = total_[s][i];
      for (int half = kLanes / 2; half; half /= 2) {
        for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
      }
      return lanes[0];
    };
    add_by_degree(total, sums);
  }

  // The rare elements, in order.
  void far(const FullGradientRow<T>& row, int64_t i, double* sums) const {
    using IS = Io<ScalarOps<T>, dtype>;
    const T x = IS::load(x_ + i), size = ScalarOps<T>::abs(x);
    if (!(size > k_.limit)) return;
    double unused[kSums] = {};
    const double value = far_element<mode>(k_, row, degree_, x, IS::load(g_ + i), wanted ? sums : unused);
    if (dx_) IS::store(dx_ + i, T(value));
  }

  [[gnu::noinline]] void replace(const FullGradientRow<T>& row, double* sums) const {
    for (int64_t r = 0; r < at_.runs; ++r) {
      for (int64_t i = 0; i < at_.length; ++i) far(row, r * at_.stride + i, sums);
    }
  }

  [[gnu::noinline]] void replace_lane(const FullGradientRow<T>& row, int lane, double* sums) const {
    for (int64_t r = 0; r < at_.runs; ++r) far(row, r * at_.stride + lane, sums);
  }
};

template <class O, Dtype dtype, Kind kind, Mode mode>
constexpr void fill_gradients(GradientSet<typename O::T>& set) {
  set.run[int(kind)][int(mode)] = {GradientLoop<O, dtype, kind, mode, false>::run, GradientLoop<O, dtype, kind, mode, true>::run};
  set.lanes[int(kind)][int(mode)] = {GradientLoop<O, dtype, kind, mode, false>::lanes, GradientLoop<O, dtype, kind, mode, true>::lanes};
}

template <class O, Dtype dtype, Kind kind, Mode... modes>
constexpr void fill_gradients(GradientSet<typename O::T>& set, tables::ModeList<modes...>) {
  (fill_gradients<O, dtype, kind, modes>(set), ...);
}

// The closed forms with all centres 0 are powers, so Kind::power needs no loop of its own.
template <class O, Dtype dtype>
constexpr GradientSet<typename O::T> gradient_set() {
  GradientSet<typename O::T> set{};
  fill_gradients<O, dtype, Kind::hermite>(set, tables::Modes{});
  fill_gradients<O, dtype, Kind::symmetric>(set, tables::Modes{});
  fill_gradients<O, dtype, Kind::general>(set, tables::Modes{});
  for (int mode = 0; mode < kModes; ++mode) {
    set.run[int(Kind::power)][mode] = set.run[int(Kind::symmetric)][mode];
    set.lanes[int(Kind::power)][mode] = set.lanes[int(Kind::symmetric)][mode];
  }
  return set;
}

template <class FloatOps_, class DoubleOps_>
constexpr GradientKernels gradient_kernels() {
  return {gradient_set<FloatOps_, Dtype::float32>(), gradient_set<FloatOps_, Dtype::float16>(),
          gradient_set<FloatOps_, Dtype::bfloat16>(), gradient_set<DoubleOps_, Dtype::float64>()};
}

}  // namespace opau::OPAU_TARGET
