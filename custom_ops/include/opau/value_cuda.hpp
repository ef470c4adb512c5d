// One CUDA thread's value.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "opau/value_scalar.hpp"

namespace opau::OPAU_TARGET {

template <class Float>
struct CudaOps : ScalarOps<Float> {};

// N values in one thread, so that a coefficient that is read serves all of them.
template <class O, int N>
struct Wide {
  using T = typename O::T;
  struct V {
    T lane[N];
  };
  struct Mask {
    bool lane[N];
  };
  template <class Result = V, class F>
  static OPAU_INLINE Result each(const F& f) {
    Result out;
    for (int i = 0; i < N; ++i) out.lane[i] = f(i);
    return out;
  }
  static OPAU_INLINE V set(T a) {
    return each([&](int) { return a; });
  }
  static OPAU_INLINE V fma(const V& a, const V& b, const V& c) {
    return each([&](int i) { return O::fma(a.lane[i], b.lane[i], c.lane[i]); });
  }
  static OPAU_INLINE V add(const V& a, const V& b) {
    return each([&](int i) { return O::add(a.lane[i], b.lane[i]); });
  }
  static OPAU_INLINE V mul(const V& a, const V& b) {
    return each([&](int i) { return O::mul(a.lane[i], b.lane[i]); });
  }
  static OPAU_INLINE V div(const V& a, const V& b) {
    return each([&](int i) { return O::div(a.lane[i], b.lane[i]); });
  }
  static OPAU_INLINE V abs(const V& a) {
    return each([&](int i) { return O::abs(a.lane[i]); });
  }
  static OPAU_INLINE Mask less(const V& a, const V& b) {
    return each<Mask>([&](int i) { return O::less(a.lane[i], b.lane[i]); });
  }
  static OPAU_INLINE V select(const Mask& m, const V& a, const V& b) {
    return each([&](int i) { return O::select(m.lane[i], a.lane[i], b.lane[i]); });
  }
};

// Elements in memory.
template <Dtype dtype>
struct CudaElement;

template <>
struct CudaElement<Dtype::float32> {
  using Stored = float;
  using T = float;
  static OPAU_INLINE T get(Stored v) { return v; }
  static OPAU_INLINE Stored put(T v) { return v; }
};

template <>
struct CudaElement<Dtype::float64> {
  using Stored = double;
  using T = double;
  static OPAU_INLINE T get(Stored v) { return v; }
  static OPAU_INLINE Stored put(T v) { return v; }
};

template <>
struct CudaElement<Dtype::float16> {
  using Stored = __half;
  using T = float;
  static OPAU_INLINE T get(Stored v) { return __half2float(v); }
  static OPAU_INLINE Stored put(T v) { return __float2half_rn(v); }
};

template <>
struct CudaElement<Dtype::bfloat16> {
  using Stored = __nv_bfloat16;
  using T = float;
  static OPAU_INLINE T get(Stored v) { return __bfloat162float(v); }
  static OPAU_INLINE Stored put(T v) { return __float2bfloat16_rn(v); }
};

}  // namespace opau::OPAU_TARGET
