// NEON (AArch64): 4 floats or 2 doubles. No streaming stores: the hardware's write streaming detects long runs itself.
#pragma once
#include <arm_neon.h>

#include "opau/value_scalar.hpp"

namespace opau::OPAU_TARGET {

struct FloatOps {
  using T = float;
  using V = float32x4_t;
  using M = uint32x4_t;
  static constexpr int kWidth = 4;
  static OPAU_INLINE V set(T a) { return vdupq_n_f32(a); }
  static OPAU_INLINE V set(V a) { return a; }
  static OPAU_INLINE V fma(V a, V b, V c) { return vfmaq_f32(c, a, b); }
  static OPAU_INLINE V add(V a, V b) { return vaddq_f32(a, b); }
  static OPAU_INLINE V mul(V a, V b) { return vmulq_f32(a, b); }
  static OPAU_INLINE V div(V a, V b) { return vdivq_f32(a, b); }
  static OPAU_INLINE V abs(V a) { return vabsq_f32(a); }
  static OPAU_INLINE M less(V a, V b) { return vcltq_f32(a, b); }
  static OPAU_INLINE M either(M a, M b) { return vorrq_u32(a, b); }
  static OPAU_INLINE bool any(M m) { return vmaxvq_u32(m) != 0; }
  static OPAU_INLINE V select(M m, V a, V b) { return vbslq_f32(m, a, b); }
  static OPAU_INLINE void fence() {}
};

struct DoubleOps {
  using T = double;
  using V = float64x2_t;
  using M = uint64x2_t;
  static constexpr int kWidth = 2;
  static OPAU_INLINE V set(T a) { return vdupq_n_f64(a); }
  static OPAU_INLINE V set(V a) { return a; }
  static OPAU_INLINE V fma(V a, V b, V c) { return vfmaq_f64(c, a, b); }
  static OPAU_INLINE V add(V a, V b) { return vaddq_f64(a, b); }
  static OPAU_INLINE V mul(V a, V b) { return vmulq_f64(a, b); }
  static OPAU_INLINE V div(V a, V b) { return vdivq_f64(a, b); }
  static OPAU_INLINE V abs(V a) { return vabsq_f64(a); }
  static OPAU_INLINE M less(V a, V b) { return vcltq_f64(a, b); }
  static OPAU_INLINE M either(M a, M b) { return vorrq_u64(a, b); }
  static OPAU_INLINE bool any(M m) { return vmaxvq_u32(vreinterpretq_u32_u64(m)) != 0; }
  static OPAU_INLINE V select(M m, V a, V b) { return vbslq_f64(m, a, b); }
  static OPAU_INLINE void fence() {}
};

template <>
struct Io<FloatOps, Dtype::float32> {
  using Element = float;
  static OPAU_INLINE float32x4_t load(const Element* p) { return vld1q_f32(p); }
  static OPAU_INLINE void store(Element* p, float32x4_t v) { vst1q_f32(p, v); }
  static OPAU_INLINE void stream(Element* p, float32x4_t v) { store(p, v); }
};

template <>
struct Io<DoubleOps, Dtype::float64> {
  using Element = double;
  static OPAU_INLINE float64x2_t load(const Element* p) { return vld1q_f64(p); }
  static OPAU_INLINE void store(Element* p, float64x2_t v) { vst1q_f64(p, v); }
  static OPAU_INLINE void stream(Element* p, float64x2_t v) { store(p, v); }
};

template <>
struct Io<FloatOps, Dtype::float16> {
  using Element = uint16_t;
  static OPAU_INLINE float32x4_t load(const Element* p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
  static OPAU_INLINE void store(Element* p, float32x4_t v) { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(v))); }
  static OPAU_INLINE void stream(Element* p, float32x4_t v) { store(p, v); }
};

template <>
struct Io<FloatOps, Dtype::bfloat16> {
  using Element = uint16_t;
  static OPAU_INLINE float32x4_t load(const Element* p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16)); }
  // No case for NaN: every NaN here comes from a bfloat16 or is the processor's default, so its low half is 0 and no carry arises.
  static OPAU_INLINE void store(Element* p, float32x4_t v) {
    const uint32x4_t u = vreinterpretq_u32_f32(v);
    const uint32x4_t high = vshrq_n_u32(u, 16);
    const uint32x4_t bias = vaddq_u32(vandq_u32(high, vdupq_n_u32(1)), vdupq_n_u32(0x7fff));
    vst1_u16(p, vmovn_u32(vshrq_n_u32(vaddq_u32(u, bias), 16)));
  }
  static OPAU_INLINE void stream(Element* p, float32x4_t v) { store(p, v); }
};

}  // namespace opau::OPAU_TARGET
