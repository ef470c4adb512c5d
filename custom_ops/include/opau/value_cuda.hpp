// One CUDA thread's value. The host's branches are for the shim that runs kernel bodies in tests.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "opau/value_scalar.hpp"

namespace opau::OPAU_TARGET {

template <class Float>
struct CudaOps : ScalarOps<Float> {
  static OPAU_INLINE float fma(float a, float b, float c) {
#ifdef __CUDA_ARCH__
    return __fmaf_rn(a, b, c);
#else
    return fused(a, b, c);
#endif
  }
  static OPAU_INLINE double fma(double a, double b, double c) {
#ifdef __CUDA_ARCH__
    return __fma_rn(a, b, c);
#else
    return fused(a, b, c);
#endif
  }
};

// Elements in memory, and 16 bytes of them.
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
