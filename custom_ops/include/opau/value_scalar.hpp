// One value at a time: the portable reference, and the tails of every vector loop.
#pragma once
#include <cmath>

#include "opau/convert.hpp"

namespace opau::OPAU_TARGET {

// Builtins rather than <cmath>'s inline functions: those are one copy for the whole library, whichever file's the linker keeps.
#if defined(__CUDA_ARCH__)
OPAU_INLINE float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }
OPAU_INLINE double fused(double a, double b, double c) { return __fma_rn(a, b, c); }
OPAU_INLINE float absolute(float a) { return fabsf(a); }
OPAU_INLINE double absolute(double a) { return fabs(a); }
#elif defined(__GNUC__)
OPAU_INLINE float fused(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
OPAU_INLINE double fused(double a, double b, double c) { return __builtin_fma(a, b, c); }
OPAU_INLINE float absolute(float a) { return __builtin_fabsf(a); }
OPAU_INLINE double absolute(double a) { return __builtin_fabs(a); }
#else
template <class T>
OPAU_INLINE T fused(T a, T b, T c) { return std::fma(a, b, c); }
template <class T>
OPAU_INLINE T absolute(T a) { return std::fabs(a); }
#endif

template <class Float>
struct ScalarOps {
  using T = Float;
  using V = Float;
  static constexpr int kWidth = 1;
  static OPAU_INLINE V set(T a) { return a; }
  static OPAU_INLINE V fma(V a, V b, V c) { return fused(a, b, c); }
  static OPAU_INLINE V add(V a, V b) { return a + b; }
  static OPAU_INLINE V mul(V a, V b) { return a * b; }
  static OPAU_INLINE V div(V a, V b) { return a / b; }
  static OPAU_INLINE V abs(V a) { return absolute(a); }
  static OPAU_INLINE bool less(V a, V b) { return a < b; }
  static OPAU_INLINE bool any(bool m) { return m; }
  static OPAU_INLINE bool either(bool a, bool b) { return a || b; }
  static OPAU_INLINE V select(bool m, V a, V b) { return m ? a : b; }
  static OPAU_INLINE void fence() {}  // after streaming stores
};

// How elements of a dtype lie in memory, for each Ops: load and store kWidth of them. Stream is the same here.
template <class Ops, Dtype dtype>
struct Io;

template <class Float, Dtype dtype>
struct ScalarIo {
  using Element = Float;
  static OPAU_INLINE Float load(const Element* p) { return *p; }
  static OPAU_INLINE void store(Element* p, Float v) { *p = v; }
  static OPAU_INLINE void stream(Element* p, Float v) { *p = v; }
};

template <>
struct Io<ScalarOps<float>, Dtype::float32> : ScalarIo<float, Dtype::float32> {};
template <>
struct Io<ScalarOps<double>, Dtype::float64> : ScalarIo<double, Dtype::float64> {};

template <>
struct Io<ScalarOps<float>, Dtype::float16> {
  using Element = uint16_t;
  static OPAU_INLINE float load(const Element* p) { return from_float16(*p); }
  static OPAU_INLINE void store(Element* p, float v) { *p = to_float16(v); }
  static OPAU_INLINE void stream(Element* p, float v) { store(p, v); }
};

template <>
struct Io<ScalarOps<float>, Dtype::bfloat16> {
  using Element = uint16_t;
  static OPAU_INLINE float load(const Element* p) { return from_bfloat16(*p); }
  static OPAU_INLINE void store(Element* p, float v) { *p = to_bfloat16(v); }
  static OPAU_INLINE void stream(Element* p, float v) { store(p, v); }
};

}  // namespace opau::OPAU_TARGET
